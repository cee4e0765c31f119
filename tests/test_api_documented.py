"""Every public name of the package is documented and typed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import kdutils as kd


def public_modules() -> list[str]:
    found = [kd.__name__]
    for module in pkgutil.walk_packages(kd.__path__, "kdutils."):
        if not any(part.startswith("_") for part in module.name.split(".")[1:]):
            found.append(module.name)
    return found


MODULES = public_modules()


def own_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions and classes that the module itself defines, and the public methods of those classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            yield name, value
            for attribute, method in vars(value).items():
                function = method.fget if isinstance(method, property) else method
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function) and (attribute == "__init__" or not attribute.startswith("_")):
                    if getattr(value, "_is_protocol", False):
                        continue
                    yield f"{name}.{attribute}", function


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    without = []
    for own, value in own_names(module):
        inherited = own.endswith((".__init__", ".forward"))  # the class says what they do
        if not inherited and not (value.__doc__ or "").strip():
            without.append(own)
    assert without == []


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_full_type_hints(name: str) -> None:
    module = importlib.import_module(name)
    without = []
    for own, value in own_names(module):
        if inspect.isclass(value):
            continue
        signature = inspect.signature(value)
        parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
        if (
            not own.endswith("__init__")
            or "__dataclass_fields__" not in vars(module).get(own.split(".")[0], object).__dict__
        ):
            without += [f"{own}({p.name})" for p in parameters if p.annotation is inspect.Parameter.empty]
            if signature.return_annotation is inspect.Signature.empty:
                without.append(f"{own} -> ?")
    assert without == []


def with_arguments(module: ModuleType) -> Iterator[tuple[str, Any, str]]:
    for own, value in own_names(module):
        doc = inspect.getdoc(value) or ""
        if inspect.isfunction(value) and "Args:" in doc:
            yield own, value, doc


@pytest.mark.parametrize("name", MODULES)
def test_a_list_of_arguments_holds_every_argument_and_no_other(name: str) -> None:
    for own, value, doc in with_arguments(importlib.import_module(name)):
        section = doc.split("Args:\n")[1].split("\n\n")[0]
        described = re.findall(r"^    (\w+):", section, flags=re.MULTILINE)
        parameters = [p for p in inspect.signature(value).parameters if p != "self"]
        assert set(described) <= set(parameters), f"{own} describes {set(described) - set(parameters)}"
        missing = set(parameters) - set(described)
        assert not missing or re.search(r"like the other arguments", section) or own in PARTLY, f"{own}: {missing}"


PARTLY = {"evaluate", "compare", "logits_and_labels", "map_agreement", "bars", "player"}


def test_the_front_door_names_what_it_opens() -> None:
    assert sorted(kd.__all__) == list(kd.__all__)
    for name in kd.__all__:
        value = getattr(kd, name)
        assert isinstance(value, ModuleType) or (value.__doc__ or "").strip()
    design = {"data", "models", "zoo", "losses", "fit", "distill", "evaluate", "compare", "explain", "check", "plot"}
    assert design <= set(kd.__all__)


def test_what_raises_says_so() -> None:
    """A public function that raises by itself has a section Raises."""
    for name in ("data", "losses", "metrics", "models", "train", "zoo", "explain"):
        module = importlib.import_module(f"kdutils.{name}")
        for own, value in own_names(module):
            if not inspect.isfunction(value) or own.endswith(("__init__", "__post_init__")):
                continue  # the class says it
            if own in kd.explain.METHODS:
                continue  # `attribute` says it for all of them
            if re.search(r"^\s+raise ", inspect.getsource(value), flags=re.MULTILINE):
                doc = inspect.getdoc(value) or ""
                assert re.search(r"\brais", doc, flags=re.IGNORECASE), f"{name}.{own}"
