"""What helps those who help: forms, the checklist, scheduled checks. The host ignores a broken one without a word."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.conftest import ROOT

GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
TYPES = {"input", "textarea", "dropdown", "checkboxes", "markdown"}


def read(path) -> dict:
    # BaseLoader: the key `on` would otherwise be read as true.
    return yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_chapter_cell_and_environment(form) -> None:
    stored = read(form)
    assert {"name", "description", "body"} <= set(stored)
    fields = {field["id"]: field for field in stored["body"] if field["type"] != "markdown"}
    assert {"chapter", "cell", "environment"} <= set(fields), f"{form.name} asks for {sorted(fields)}"
    for name, field in fields.items():
        assert field["type"] in TYPES and field["attributes"]["label"], name
    for name in ("chapter", "cell"):
        assert fields[name]["validations"]["required"] == "true", f"{form.name} may be sent without the {name}"


def test_there_is_a_form_for_what_is_wrong_and_one_for_what_is_unclear() -> None:
    assert [path.stem for path in FORMS] == ["unclear", "wrong"]


def test_the_checklist_names_what_is_checked() -> None:
    text = (GITHUB / "pull_request_template.md").read_text(encoding="utf-8")
    assert text.count("- [ ]") >= 5
    for wanted in ("make test", "make lint", "make notebook", "interval", "docstring", "glossary", "notation"):
        assert wanted in text, f"the checklist does not say {wanted!r}"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_that_exist_and_cannot_run_for_ever(workflow) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    stored = read(workflow)
    assert "permissions" in stored, "without it a job may write everywhere"
    for name, job in stored["jobs"].items():
        assert int(job["timeout-minutes"]) <= 90, name
        for step in job["steps"]:
            for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "").split("gh pr create")[0]):
                assert target in targets, f"{workflow.name} runs make {target}"
            assert "uses" not in step or re.search(r"@v\d+", step["uses"]), step


def test_links_are_checked_every_week_and_block_nothing() -> None:
    links = read(GITHUB / "workflows" / "links.yml")
    assert "schedule" in links["on"] and "push" not in links["on"] and "pull_request" not in links["on"]
    assert all(job["continue-on-error"] == "true" for job in links["jobs"].values())


def test_newer_packages_are_proposed_by_themselves() -> None:
    assert "schedule" in read(GITHUB / "workflows" / "lock.yml")["on"]
    updates = read(GITHUB / "dependabot.yml")["updates"]
    assert [update["package-ecosystem"] for update in updates] == ["github-actions"], "packages come from make lock"
