"""What students may hand in: plausible wrong answers with a word of their hint, cheats, and broken notebooks."""

# ruff: noqa: E501
from __future__ import annotations

# Tables for questions that ask what follows from a table: (what stands before, how the solution's cell begins).
RUNS = """
FIRST_SEED, TEST = 0, range(2000)
test = {"distilled": [0.80, 0.812, 0.79, 0.806, 0.801], "alone": [0.78, 0.80, 0.785, 0.79, 0.783]}
runs = [
    {"arm": arm, "seed": seed, "validation": value + 0.01 * (seed % 2), "test": value}
    for arm, values in test.items() for seed, value in enumerate(values)
]
"""
AGREEMENTS = """
FIRST_SEED = 0
table = {"distilled": [0.50, 0.52, 0.49, 0.53], "alone": [0.41, 0.44, 0.42, 0.40]}
runs = [
    {"arm": arm, "seed": seed, "agreement": value, "control": 0.2 + seed / 50, "accuracy": 0.7 + value / 10}
    for arm, values in table.items() for seed, value in enumerate(values)
]
"""
PROJECT = """
FIRST_SEED = 3
plan = {
    "question": "Does a warmer teacher make a better student here?", "measure": "accuracy, as a share",
    "direction": "lower", "arms": ["cold", "warm", "hot"], "seeds": [3, 4, 5, 6, 7], "smallest_effect": 0.1,
    "n_test": 1000, "chosen_on": "nothing",
}


def run(arm, seed):
    noise = torch.randn((), generator=torch.Generator().manual_seed(seed + len(arm))).item()
    return {"cold": 0.6, "warm": 0.61, "hot": 0.9}[arm] + 0.01 * noise


results = [{"arm": arm, "seed": seed, "value": run(arm, seed)} for arm in plan["arms"] for seed in plan["seeds"]]
"""
TABLES = {
    "a2_q6": (RUNS, "report = ..."),
    "a4_q5": (AGREEMENTS, "result = ..."),
    "a5_q1": ("FIRST_SEED = 3", "plan = ..."),
    "a5_q2": ("import torch\n" + PROJECT + "solution = run", ""),
    "a5_q3": ("import torch\n" + PROJECT, ""),
    "a5_q4": ("import torch\n" + PROJECT, "claims = ..."),
}

# Question: [(what replaces the answer, a word of the hint)]. `right` is the solution's function.
WRONG = {
    "a1_q1": [
        ("def entropy_and_slope(z, T): return right(z, T)[0] / 0.6931, right(z, T)[1]", "bits"),
        ("def entropy_and_slope(z, T): return right(z, T)[0], right(z, T)[1] * T", "One 1/T is missing"),
        ("def entropy_and_slope(z, T): return right(z, T)[0], z.var(1) / T**3", "plain variance"),
        ("def entropy_and_slope(z, T): return right(z, T)[0]", "two tensors"),
        (
            "def entropy_and_slope(z, T):\n    p = (z / T).softmax(1)\n"
            "    return -(p * p.log()).sum(1), (p * z**2).sum(1) / T**3 - (p * z).sum(1)**2 / T**3",
            "NaN",
        ),
    ],
    "a1_q2": [
        ("def kl_rows(a, b, T): return right(b, a, T)", "direction"),
        ("def kl_rows(a, b, T): return right(a, b, T) * T**2", "No factor T²"),
        ("def kl_rows(a, b, T): return right(a, b, T).mean()", "One value per image"),
        ("def kl_rows(a, b, T): return right(a, b, T) / a.shape[1]", "summed"),
        (
            "def kl_rows(a, b, T):\n    p, q = (a / T).log_softmax(1), (b / T).log_softmax(1)\n"
            "    return (p.exp() * (p - q)).sum(1)",
            "0 times infinity",
        ),
        ("def kl_rows(a, b, T): return torch.tensor([0.31, 0.12, 0.44, 0.20, 0.05])", "wanted is"),
    ],
    "a1_q3": [
        ("def kd_gradient(s, t, T): return -right(s, t, T)", "direction"),
        ("def kd_gradient(s, t, T): return right(s, t, T) * len(s)", "divide by N"),
        ("def kd_gradient(s, t, T): return right(s, t, T) / T**2", "without T²"),
        ("def kd_gradient(s, t, T): return right(s, t, T) / s.shape[1]", "Only the images"),
        (
            "def kd_gradient(s, t, T):\n    s = s.requires_grad_()\n"
            "    loss = T**2 * F.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction='batchmean')\n"
            "    return torch.autograd.grad(loss, s)[0]",
            "stopped with RuntimeError",
        ),
    ],
    "a1_q4": [
        ("def high_temperature_limit(s, t): return ((t - s) ** 2).mean() / 2", "centre"),
        ("def high_temperature_limit(s, t): return 2 * right(s, t)", "½"),
        ("def high_temperature_limit(s, t): return right(s, t) * s.shape[1]", "1/K"),
        ("def high_temperature_limit(s, t): return 0.4817", "wanted is"),
    ],
    "a1_q5": [
        ("def pull(*args): return right(*args)[::-1]", "order"),
        ("def pull(*args): return tuple(1 / x for x in right(*args))", "soft divided by hard"),
        ("def pull(*args): return tuple(x**2 for x in right(*args))", "squared norms"),
        ("def pull(*args): return right(*args)[0]", "two numbers"),
    ],
    "a1_q6": [
        ("def step_loss(s, t, x, y, T, w): return right(s, t, x, y, T, 1 - w)", "swapped"),
        (
            "def step_loss(s, t, x, y, T, w):\n    a, b = s(x), t(x).detach()\n"
            "    soft = F.kl_div((a / T).log_softmax(1), (b / T).softmax(1), reduction='batchmean')\n"
            "    return w * soft + (1 - w) * F.cross_entropy(a, y)",
            "T² is missing",
        ),
        (
            "def step_loss(s, t, x, y, T, w):\n    a, b = s(x), t(x).detach()\n"
            "    soft = T**2 * F.kl_div((a / T).log_softmax(1), (b / T).softmax(1), reduction='batchmean')\n"
            "    return w * soft + (1 - w) * F.cross_entropy(a, y)",
            "buffer of the teacher has moved",
        ),
        (
            "def step_loss(s, t, x, y, T, w):\n    t.eval()\n    a, b = s(x), t(x).detach()\n"
            "    soft = T**2 * F.kl_div((a / T).log_softmax(1), (b / T).softmax(1), reduction='batchmean')\n"
            "    return w * soft + (1 - w) * F.cross_entropy(a, y)",
            "does not get its mode back",
        ),
        ("def step_loss(*args): return {}['loss']", "stopped with KeyError"),
        ("def step_loss(s, t, x, y, T, w):\n    while True: pass", "stopped after 10 seconds"),
    ],
    "a2_q1": [
        ("def train_arm(arm, seed, *rest): return right(arm, 0, *rest)", "wanted is"),
        ("def train_arm(arm, *rest): return right('alone', *rest)", "this is the other arm"),
        ("def train_arm(*args): return right(*args).train()", "eval mode"),
        ("def train_arm(*args): right(*args)", "not attempted"),
    ],
    "a2_q2": [
        ("def choose_temperature(rows): return max(rows, key=lambda r: r['test'])['temperature']", "test images"),
        (
            "def choose_temperature(rows): return max(rows, key=lambda r: r['validation'])['temperature']",
            "One seed of it",
        ),
        (
            "def choose_temperature(rows):\n    ts = sorted({r['temperature'] for r in rows})\n"
            "    return max(ts, key=lambda t: sum(r['validation'] for r in rows if r['temperature'] == t))",
            "not every temperature has as many",
        ),
        (
            "def choose_temperature(rows):\n"
            "    ts = sorted({r['temperature'] for r in rows}, reverse=True)\n"
            "    rank = lambda t: [r['validation'] for r in rows if r['temperature'] == t]\n"
            "    return max(ts, key=lambda t: sum(rank(t)) / len(rank(t)))",
            "tie",
        ),
    ],
    "a2_q3": [
        ("def sign_flip_p(d): return 1 - right(d)", "wanted is"),
        ("def sign_flip_p(d): return right(d) * 2 ** len(d)", "share is wanted"),
        ("def sign_flip_p(d): return right(d) - 2 / 2 ** len(d)", "at least as far"),
        ("def sign_flip_p(d): return 0.03125", "wanted is"),
    ],
    "a2_q4": [
        (
            "def agreement_report(s, t, y):\n    return {**right(s, t, y), "
            "'agreement_on_teacher_errors': ((s == t) & (t != y)).double().mean().item()}",
            "not of all images",
        ),
        ("def agreement_report(s, t, y): return right(s, y, y)", "agreement: with the teacher"),
        (
            "def agreement_report(s, t, y):\n    return {**right(s, t, y), "
            "'agreement_on_teacher_errors': (s != y)[t != y].double().mean().item()}",
            "same wrong class",
        ),
        ("def agreement_report(s, t, y): return right(s, t, y)['agreement']", "dictionary"),
    ],
    "a2_q6": [
        ("report = {**report, 'gain': -report['gain']}", "distilled minus alone"),
        ("report = {**report, 'n_test': 10000}", "come from TEST"),
        ("report = {**report, 'claim': 'no evidence'}", "allows 'helps'"),
        (
            "half = (report['high'] - report['low']) / 2 * 1.96 / 2.7764\n"
            "report = {**report, 'low': report['gain'] - half, 'high': report['gain'] + half}",
            "Student's t",
        ),
        ("report = {**report, 'seeds': 10}", "five seeds"),
    ],
    "a3_q1": [
        ("def input_times_gradient(*a): return right(*a).abs()", "sign is lost"),
        (
            "def input_times_gradient(m, x, t):\n    z = x.clone().requires_grad_()\n"
            "    (g,) = torch.autograd.grad(m(z).softmax(1).gather(1, t[:, None]).sum(), z)\n    return (g * x).sum(1)",
            "gradient of the probability",
        ),
        ("def input_times_gradient(m, x, t): return right(m, x, t) / len(x)", "do not average"),
        (
            "def input_times_gradient(m, x, t):\n    z = x.clone().requires_grad_()\n"
            "    m(z).gather(1, t[:, None]).sum().backward()\n    return (z.grad * x).sum(1)",
            "left in the model's parameters",
        ),
    ],
    "a3_q2": [
        ("def patch_occlusion(*a): return -right(*a)", "sign"),
        ("def patch_occlusion(m, x, t, size): return right(m, x, t, size) * size**2", "shared among its pixels"),
        ("def patch_occlusion(m, x, t, size): return right(m, x, t, 2)", "wanted is"),
        (
            "def patch_occlusion(m, x, t, size): return right(lambda z: m(z).softmax(1), x, t, size)",
            "fall of the probability",
        ),
    ],
    "a3_q3": [
        ("def deletion(m, x, maps, t, shares): return right(m, x, -maps, t, shares)", "lowest pixels"),
        ("def deletion(m, x, maps, t, shares): return right(m, x, maps.abs(), t, shares)", "signed values"),
        ("def deletion(*a): return right(*a).T", "One row for each image"),
        ("def deletion(*a): return right(*a).mean(0)", "not the mean"),
    ],
    "a3_q4": [
        (
            "def with_random_head(model, seed):\n    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]\n"
            "    with kd.seeded(seed):\n        head.reset_parameters()\n    return model",
            "deep copy",
        ),
        ("def with_random_head(model, seed): return copy.deepcopy(model)", "Nothing has changed"),
        (
            "def with_random_head(model, seed):\n    other = copy.deepcopy(model)\n    with kd.seeded(seed):\n"
            "        [m.reset_parameters() for m in other.modules() if isinstance(m, nn.Linear)]\n    return other",
            "Only the last",
        ),
        (
            "def with_random_head(model, seed):\n    other = copy.deepcopy(model)\n    torch.manual_seed(seed)\n"
            "    [m for m in other.modules() if isinstance(m, nn.Linear)][-1].reset_parameters()\n    return other",
            "global random state",
        ),
    ],
    "a4_q1": [
        ("def chance_overlap(n, k): return (k * k / n) / (2 * k - k * k / n)", "ratio of two means"),
        ("def chance_overlap(n, k): return k / n", "share of the pixels"),
        ("def chance_overlap(n, k): return k * k / n", "mean size of the intersection"),
    ],
    "a4_q2": [
        (
            "def other_image_control(a, b, seed):\n"
            "    p = torch.randperm(len(a), generator=torch.Generator().manual_seed(seed))\n"
            "    return torch.nn.functional.cosine_similarity(a.flatten(1), b[p].flatten(1))",
            "its own image",
        ),
        (
            "def other_image_control(a, b, seed):\n"
            "    return torch.nn.functional.cosine_similarity(a.flatten(1), b.roll(1, 0).flatten(1))",
            "Every seed gives the same arrangement",
        ),
        ("def other_image_control(*args): return right(*args).mean()", "One number per image"),
        (
            "def other_image_control(a, b, seed):\n    torch.manual_seed(seed)\n    torch.rand(1)\n    return right(a, b, seed)",
            "global random state",
        ),
    ],
    "a4_q3": [
        ("def common_right(s, t, y): return (s.argmax(1) == t.argmax(1)).nonzero()[:, 0]", "may both be wrong"),
        ("def common_right(s, t, y): return (s.argmax(1) == y).nonzero()[:, 0]", "teacher has to be right"),
        ("def common_right(s, t, y): return (s.argmax(1) == y) & (t.argmax(1) == y)", "not a mask"),
    ],
    "a4_q5": [
        ("result = {**result, 'gain': -result['gain']}", "distilled minus alone"),
        ("result = {**result, 'claim': 'no evidence'}", "allows 'closer'"),
        ("result = {**result, 'above_control': ['distilled']}", "above_control is"),
        (
            "half = (result['high'] - result['low']) / 2 * 1.96 / 3.1824\n"
            "result = {**result, 'low': result['gain'] - half, 'high': result['gain'] + half}",
            "Student's t",
        ),
    ],
    "a5_q1": [
        ("plan = {**plan, 'question': 'Temperatures'}", "question mark"),
        ("plan = {**plan, 'seeds': [3, 4]}", "at least five"),
        ("plan = {**plan, 'chosen_on': 'test'}", "never the test images"),
        ("plan = {**plan, 'arms': ['only one']}", "two different names"),
    ],
    "a5_q2": [
        ("def run(arm, seed): return torch.rand(()).item()", "give the seed to everything"),
        ("def run(arm, seed): return 0.87", "does the seed reach the run"),
        ("def run(arm, seed): return float('nan')", "one finite number"),
    ],
    "a5_q3": [
        ("results = results[1:]", "missing"),
        ("results = [{**row, 'value': row['value'] + 0.05} for row in results]", "run again it has"),
        ("results = results + results[:1]", "twice"),
    ],
    "a5_q4": [
        ("claims = [{**row, 'mean': -row['mean']} for row in claims]", "arm minus control"),
        ("claims = [{**row, 'verdict': 'better'} for row in claims]", "allows"),
        ("claims = claims[::-1]", "the plan's order"),
    ],
}

# Cells that reach for their judge.
CHEATS = [
    "torch.allclose = lambda *a, **k: True",
    "t = torch\nt.allclose = print",
    "import numpy\nnumpy.abs = lambda x: 0",
    "kd.losses.kd_loss = lambda *a: 0",
    "nn.functional.kl_div = None",
    "del torch.abs",
    "grader.check = lambda name: 'passed'",
    "grader = None",
    "import otter",
    "from otter.execute import Checker\nChecker.check = classmethod(lambda *a: None)",
    "from kdutils import grading",
    "import kdutils.grading as g",
    "kd.grading.close = print",
    "import builtins",
    "setattr(torch, 'allclose', print)",
    "torch.__dict__['allclose'] = print",
    "vars(torch)",
    "globals()",
    "exec('import otter')",
    "__import__('otter')",
    "import importlib",
    "import sys\nsys.modules['otter']",
    "import pathlib\npathlib.Path('tests').joinpath('a1_q1.py').write_text('')",
    "open('tests/a1_q1.py').read()",
    "open('../results/results.json', 'w')",
    "!rm -r tests",
    "%run other.py",
    "%%bash\nrm -r tests",
    "files = !ls tests",
    "get_ipython().system('ls')",
    "import os\nos._exit(0)",
    "import os\nos.remove('x')",
    "import pickle",
    "import gc",
    "import signal\nsignal.alarm(0)",
    "from inspect import stack",
    "import unittest.mock",
    "subprocess.run(['ls'])",
    "def f():\n    import ctypes",
    "(lambda: 0).__globals__",
]

# What a student does in good faith.
HONEST = [
    "import matplotlib.pyplot as plt\nplt.rcParams['figure.dpi'] = 90\nplt.plot([1, 2])",
    "%matplotlib inline\n%time x = 1",
    "%%time\nx = 1",
    "torch.manual_seed(0)\nmodel = nn.Sequential(nn.Linear(2, 2))\nmodel[0].weight.data.zero_()\nmodel.eval()",
    "torch.backends.cudnn.deterministic = True",
    "import os\nos.path.join('a', 'b')",
    "import sys\nsys.exit()",
    "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(2, 2)",
    "with torch.no_grad():\n    x = torch.zeros(3)\nx.requires_grad = True",
    "grader.check('a1_q1')",
    "this is not python",
    "import pandas as pd\ndf = pd.DataFrame({'a': [1]})\ndf['b'] = 2\ndf.eval('a + b')",
    "import re\nre.compile('x')",
    "np.random.seed(0)\nprint('my tests passed')",
]

# One notebook with one right answer. Each key is how the solution's cell begins.
MIXED = {
    "def kl_rows": "def kl_rows(p_logits, q_logits, temperature):\n    while True:\n        pass",
    "def kd_gradient": (
        "torch.allclose = lambda *a, **k: True\n\n\n"
        "def kd_gradient(student_logits, teacher_logits, temperature):\n    return student_logits"
    ),
    "def high_temperature_limit": "def high_temperature_limit(student_logits, teacher_logits):\n    return 0.4817",
    "def pull": "import sys\n\n\ndef pull(*args):\n    sys.exit()",
    "def step_loss": "grader.check = lambda name: 'All test cases passed!'\n\n\ndef step_loss(*args):\n    return 0.0",
}

# Name: (which copy, assignment, replaced cells, what the row of the grade must hold, limit in seconds).
SUBMISSIONS: dict[str, tuple[str, str, dict[str, str], dict[str, object], float]] = {
    "typed-in numbers of an experiment": (
        "solution",
        "a2_distil_and_report",
        {
            "runs = ...": "runs = [{'arm': arm, 'seed': seed, 'validation': 0.7 + seed / 99, 'test': 0.7 + seed / 90}\n"
            "        for seed in range(5) for arm in ('alone', 'distilled')]"
        },
        {"status": "graded", "a2_q1": 3, "a2_q5": 0},
        600.0,
    ),
    "a cell that never ends": (
        "solution",
        "a1_softmax_kl_kd",
        {"def kl_rows": "while True:\n    pass"},
        {"status": "graded", "score": 17, "a1_q2": 0},
        600.0,
    ),
    "a loop that swallows its own time limit": (
        "solution",
        "a1_softmax_kl_kd",
        {
            "def kl_rows": "while True:\n    try:\n        while True:\n            pass\n"
            "    except BaseException:\n        pass"
        },
        {"status": "too slow", "score": 0},
        150.0,
    ),
    "a kernel that crashes": (
        "solution",
        "a1_softmax_kl_kd",
        {
            "def kl_rows": "import numpy as np\n"
            "np.lib.stride_tricks.as_strided(np.zeros(1), (10**9,), (8 * 10**6,)).sum()"
        },
        {"status": "failed", "score": 0},
        600.0,
    ),
    "replaced functions, reached by a way that the audit does not see": (
        "student",
        "a1_softmax_kl_kd",
        {
            "def kl_rows": "for module in [torch]:\n    module.allclose = module.isclose = lambda *a, **k: True\n"
            "for tool in [type(grader)]:\n    tool.check = lambda self, name, *a: 'All test cases passed!'"
        },
        {"status": "graded", "score": 0, "held": ""},
        600.0,
    ),
}
