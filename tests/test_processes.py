"""Several processes train what one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
import kdutils as kd
from kdutils import _processes, store
from tests.common import fashion

out, kind = sys.argv[1:]
torch.set_num_threads(1)
rank, size = _processes.join()


class Double(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net.double()

    def forward(self, x):
        return self.net(x.double())


train = fashion()[0].subset(58, seed=0)  # 58 = 4 · 13 + 6, so the two halves of a batch differ in size
teacher = kd.zoo.load("fashion_mnist/tiny_cnn")
with kd.seeded(0):
    model = Double(nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 10)))
if kind == "float32":
    with kd.seeded(0):
        model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 13 * 13, 10))
common = dict(batch_size=13, seed=3, progress=False)
if kind == "fit":
    history = kd.fit(model, train, epochs=100, lr=0.05, validation=train, **common)
elif kind == "distill":
    with kd.seeded(rank):  # other ones in the second process: the first one's count
        wider = nn.Sequential(nn.Linear(12, 32), nn.Unflatten(1, (32, 1, 1))).double()
    term = kd.Term("hint", kd.losses.hint_loss, 0.1, "net.2", "net.9", projector=wider)
    common |= dict(terms=[term], checkpoint=f"{out}.run")
    history = kd.distill(model, Double(teacher), train, epochs=100, lr=0.01, **common)
elif kind == "store":
    kept = store.fill(f"{out}.store", teacher, train, views=3, precision="single", progress=False)
    history = kd.distill(model, kept, train, epochs=100, lr=0.05, **common)
else:
    history = kd.distill(model, teacher, train, epochs=10, lr=0.01, **common)
if rank == 0:
    rows = {f"history.{name}": torch.tensor(values).double() for name, values in history.items() if name != "seconds"}
    save_file({**{name: value.contiguous() for name, value in model.state_dict().items()}, **rows}, out)
_processes.wait(size)
if size > 1:
    dist.destroy_process_group()
"""


def trained(tmp_path: Path, kind: str, processes: int) -> dict[str, torch.Tensor]:
    script, out = tmp_path / "train.py", tmp_path / f"{kind}-{processes}"
    script.write_text(SCRIPT)
    far = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    subprocess.run(
        [sys.executable, *(far if processes > 1 else []), str(script), str(out), kind],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return load_file(out)


# A store's soft labels are computed in single precision, whose last bit depends on an image's place in a batch.
@pytest.mark.parametrize(("kind", "tolerance"), [("fit", 1e-9), ("distill", 1e-9), ("store", 1e-6), ("float32", 1e-5)])
def test_two_processes_end_where_one_does(kind: str, tolerance: float, tmp_path: Path) -> None:
    one, two = (trained(tmp_path, kind, processes) for processes in (1, 2))
    for history in (True, False):
        parts = [{name: v for name, v in end.items() if name.startswith("history") == history} for end in (one, two)]
        assert parts[0]
        torch.testing.assert_close(*parts, rtol=0, atol=1e-5 if history else tolerance)  # its sums are float32
    if kind == "store":
        first, second = (sorted((tmp_path / f"store-{n}.store").iterdir()) for n in (1, 2))
        assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
