"""Experiment files: what binds, where it came from, and every way to get it wrong."""

import dataclasses
import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from o1jax.config import ConfigError, check_workdir, configurable, load


@runtime_checkable
class Puzzle(Protocol):
    def solve(self) -> int: ...


@configurable
@dataclass(frozen=True)
class Sums:
    digits: int = 2

    def solve(self) -> int:
        return self.digits


@configurable
@dataclass(frozen=True)
class Net:
    width: int = 64
    heads: int = 4
    act: Literal["relu", "gelu"] = "gelu"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")


@configurable
@dataclass(frozen=True)
class Sgd:
    lr: float = 1e-3
    clip: float | None = 1.0
    decay: tuple[float, ...] = ()


@configurable
@dataclass(frozen=True)
class Fit:
    steps: int = 10
    sgd: Sgd = field(default_factory=Sgd)
    log_every: int = field(default=5, metadata={"identity": False})

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be positive")


@configurable
@dataclass(frozen=True)
class Lab:
    task: Puzzle
    stages: tuple[Fit, ...] = ()
    net: Net = field(default_factory=Net)
    draft: Net = field(default_factory=lambda: Net(width=32))
    name: str = "lab"
    shuffle: bool = True
    window: tuple[int, int] = (0, 8)
    extra: Any = None


TWO_STAGES = """\
Lab.task = @Sums()
Lab.stages = [@short/Fit(), @long/Fit()]
Fit.steps = 20
long/Fit.steps = 300
long/Sgd.lr = 1  # an int is a fine float
Sgd.decay = [0.5, 1]
Net.width = 96
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Load gin text as lab.gin of the current folder."""
    monkeypatch.chdir(tmp_path)

    def load_text(text, *overrides):
        (tmp_path / "lab.gin").write_text(text)
        return load("lab.gin", overrides, root="Lab")

    return load_text


def origins(loaded):
    return {row.name: (row.value, row.origin) for row in loaded.rows()}


def test_scopes_reach_everything_that_a_scoped_config_contains(lab):
    short, long = lab(TWO_STAGES).experiment.stages
    decay = (0.5, 1.0)
    assert short == Fit(steps=20, sgd=Sgd(lr=1e-3, decay=decay))
    assert long == Fit(steps=300, sgd=Sgd(lr=1.0, decay=decay))
    assert type(long.sgd.lr) is float and type(long.sgd.decay[1]) is float


def test_a_nested_default_is_bound_by_its_class_or_by_its_field(lab):
    """Net.width speaks of `net`, never of `draft`, which has a width of its own."""
    text = "Lab.task = @Sums()\nNet.width = 96\ndraft/Net.heads = 2\n"
    experiment = lab(text).experiment
    assert experiment.net == Net(width=96)
    assert experiment.draft == Net(width=32, heads=2)


def test_scopes_macros_and_blocks_mean_what_they_mean_in_gin(lab):
    text = """
pair = [@Sums(), @deep/er/Sums()]
n = 5
Lab.task = @one/Sums()
Lab.extra = %pair
Lab.name = 'a' 'b'
Sums.digits = 3
one/Sums:
    digits = %n
deep/Sums.digits = 7
pair/Sums.digits = 8
"""
    gin = subprocess.run(
        [sys.executable, "-c", GIN_ITSELF, text], capture_output=True, text=True
    )
    experiment = lab(text).experiment
    ours = (experiment.task.digits, [s.digits for s in experiment.extra])
    assert gin.stdout == f"{(*ours, experiment.name)}\n", gin.stderr
    assert ours == (5, [8, 7])  # Sums() of the macro is built in the scope `pair`


GIN_ITSELF = """
import importlib.util, sys, gin
class Sums:
    def __init__(self, digits=2): self.digits = digits
class Lab:
    def __init__(self, task, extra, name):
        print((task.digits, [s.digits for s in extra], name))
gin.external_configurable(Sums, "Sums")
lab = gin.external_configurable(Lab, "Lab")
gin.parse_config(sys.argv[1])
lab()
"""


def test_each_row_says_where_its_value_was_written(lab):
    text = "size = 48\ninclude 'base/net.gin'\nLab.task = @Sums()\n"
    base = "Net.heads = 6\nNet.width = %size\nLab.name = 'base'\n"
    base += "Lab.stages = [@Fit()]\n"
    with pytest.raises(ConfigError, match=r"lab\.gin:2: include 'base/net\.gin'"):
        lab(text)
    Path("base").mkdir()
    Path("base/net.gin").write_text(base)
    rows = origins(lab(text, "Lab.name=mine", "Fit.steps = 3"))
    assert rows["Net.heads"] == ("6", "base/net.gin:1")
    assert rows["Net.width"] == ("48", "lab.gin:1")
    assert rows["Lab.name"] == ("'mine'", "--set")
    assert rows["Fit.steps"] == ("3", "--set")
    assert rows["Lab.task"] == ("@Sums()", "lab.gin:3")
    assert rows["Lab.shuffle"] == ("True", "default")
    assert rows["draft/Net.width"] == ("32", "default")


def test_an_include_is_looked_up_beside_the_file_that_includes_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "top.gin").write_text("include 'b/mid.gin'\nLab.task = @Sums()")
    (tmp_path / "a" / "b" / "mid.gin").write_text("include 'leaf.gin'")
    (tmp_path / "a" / "b" / "leaf.gin").write_text("Sums.digits = 9")
    assert load(tmp_path / "a" / "top.gin", root="Lab").experiment.task.digits == 9


def test_the_operative_text_alone_gives_the_same_experiment(lab):
    text = (
        TWO_STAGES + "draft/Net.heads = 2\nLab.extra = (1e999, 'a\\n\\'b', {1: None})"
    )
    first = lab("import o1jax.config\n" + text, "long/Sgd.clip=None")
    again = lab(first.operative())
    assert again.experiment == first.experiment
    assert again.operative() == first.operative()
    assert again.fingerprint() == first.fingerprint()
    assert first.experiment.extra == (math.inf, "a\n'b", {1: None})
    assert first.operative().startswith("import o1jax.config\nLab.task = @Sums()\n")


def test_the_fingerprint_follows_identity_alone(lab):
    first = lab(TWO_STAGES)
    assert lab(TWO_STAGES, "Fit.log_every=50").fingerprint() == first.fingerprint()
    assert lab(TWO_STAGES, "Sums.digits=3").fingerprint() != first.fingerprint()
    # 1 and 1.0 are the same learning rate.
    assert lab(TWO_STAGES, "long/Sgd.lr=1.0").fingerprint() == first.fingerprint()


def test_direct_construction_never_sees_a_config_file(lab):
    assert lab("Lab.task = @Sums()\nSums.digits = 9").experiment.task.digits == 9
    assert Sums() == Sums(digits=2)
    assert dataclasses.replace(Net(), width=8) == Net(width=8)
    assert isinstance(lab("Lab.task = @Sums()").experiment, Lab)
    assert lab("Lab.task = @Sums()").experiment.task == Sums()


MISTAKES = {
    "unknown class": (
        "Lab.task = @Sum()",
        "lab.gin:1: unknown class 'Sum'; did you mean Sums?",
    ),
    "unknown class of a binding": (
        "Lab.task = @Sums()\n\nNte.width = 3",
        "lab.gin:3: unknown class 'Nte'; did you mean Net?",
    ),
    "unknown field": (
        "Lab.task = @Sums()\nNet.widht = 3",
        "lab.gin:2: Net has no field 'widht'; did you mean width?",
    ),
    "unknown field, nothing near": (
        "Net.zzz = 3",
        "lab.gin:1: Net has no field 'zzz'; it has width, heads, act",
    ),
    "unknown macro": (
        "wide = 3\nNet.width = %wid",
        "lab.gin:2: unknown macro %wid; did you mean wide?",
    ),
    "str for int": (
        "Lab.task = @Sums()\nNet.width = '3'",
        "lab.gin:2: Net.width = '3': expected int, got str",
    ),
    "float for int": (
        "Lab.task = @Sums()\nNet.width = 3.0",
        "lab.gin:2: Net.width = 3.0: expected int, got float",
    ),
    "bool for int": (
        "Lab.task = @Sums()\nNet.width = True",
        "lab.gin:2: Net.width = True: expected int, got bool",
    ),
    "bool for float": (
        "Lab.task = @Sums()\nLab.stages = [@Fit()]\nSgd.lr = True",
        "lab.gin:3: Sgd.lr = True: expected float, got bool",
    ),
    "int for bool": (
        "Lab.task = @Sums()\nLab.shuffle = 1",
        "lab.gin:2: Lab.shuffle = 1: expected bool, got int",
    ),
    "None for int": (
        "Lab.task = @Sums()\nNet.width = None",
        "lab.gin:2: Net.width = None: expected int, got None",
    ),
    "none of a union": (
        "Lab.task = @Sums()\nLab.stages = [@Fit()]\nSgd.clip = 'a'",
        "lab.gin:3: Sgd.clip = 'a': expected float or None, got str",
    ),
    "no such choice": (
        "Lab.task = @Sums()\nNet.act = 'gelo'",
        "lab.gin:2: Net.act = 'gelo': expected one of 'relu', 'gelu', got str;"
        " did you mean gelu?",
    ),
    "wrong item": (
        "Lab.task = @Sums()\nLab.stages = [@Fit()]\nSgd.decay = [1, 'a']",
        "lab.gin:3: Sgd.decay = (1, 'a'): expected float, got str",
    ),
    "wrong number of items": (
        "Lab.task = @Sums()\nLab.window = (1, 2, 3)",
        "lab.gin:2: Lab.window = (1, 2, 3): expected 2 values, got 3",
    ),
    "number for a list": (
        "Lab.task = @Sums()\nLab.stages = @Fit()",
        "lab.gin:2: Lab.stages = @Fit(): expected a list of Fit, got Fit",
    ),
    "wrong class": (
        "Lab.task = @Sums()\nLab.net = @Fit()",
        "lab.gin:2: Lab.net = @Fit(): expected Net, got Fit",
    ),
    "not that protocol": (
        "Lab.task = @Net()",
        "lab.gin:1: Lab.task = @Net(): expected Puzzle, got Net, which has no solve",
    ),
    "class without parentheses": (
        "Lab.task = @Sums",
        "lab.gin:1: write @Sums() to build it",
    ),
    "class as macro": (
        "Lab.task = @Sums()\nNet = 3",
        "lab.gin:2: Net is a class: bind one of its fields",
    ),
    "impossible value": (
        "Lab.task = @Sums()\nLab.stages = [@a/Fit()]\na/Fit.steps = -3",
        "lab.gin:3: a/Fit.steps = -3: must be positive",
    ),
    "impossible with a default": (
        "Lab.task = @Sums()\nNet.width = 6",
        "lab.gin:2: Net.width = 6: heads 4 does not divide width 6",
    ),
    "nothing bound to a required field": (
        "Lab.name = 'x'",
        "lab.gin: Lab.task has no default: bind it",
    ),
    "unused scope": (
        "Lab.task = @Sums()\nwide/Net.width = 128",
        "lab.gin:2: wide/Net.width is never used: the experiment builds Net, draft/Net",
    ),
    "unused class": (
        "Lab.task = @Sums()\nFit.steps = 1\nSgd.lr = 1.0",
        "lab.gin:2: Fit.steps is never used: the experiment builds no Fit (and 1 more)",
    ),
    "unused macro": (
        "Lab.task = @Sums()\nwide = 3",
        "lab.gin:2: wide is never used: no binding says %wide",
    ),
    "part of itself": (
        "Lab.task = @Sums()\nLab.extra = @Lab()",
        "lab.gin:2: Lab contains itself",
    ),
    "macro of itself": (
        "a = %b\nb = %a\nLab.task = %a",
        "lab.gin:2: a contains itself",
    ),
    "file of itself": (
        "include 'lab.gin'",
        "lab.gin:1: include 'lab.gin': the file includes itself",
    ),
    "missing include": (
        "include 'labs.gin'",
        "lab.gin:1: include 'labs.gin': no such file or directory;"
        " did you mean lab.gin?",
    ),
    "missing module": (
        "import o1jax.nothing",
        "lab.gin:1: import o1jax.nothing: No module named 'o1jax.nothing'",
    ),
    "text without quotes": (
        "Lab.task = @Sums()\nLab.name = lab",
        "lab.gin:2: cannot read lab (text needs quotes)",
    ),
    "no value": ("Lab.task =\n", "lab.gin:1: Unable to parse value."),
    "no literal": (
        "Lab.task = @Sums()\nLab.extra = b'x'",
        "lab.gin:2: Lab.extra = b'x': a config file cannot hold b'x'",
    ),
    "two of one name": (
        "Lab.task = @Sums()\nNet.heads = 2\nLab.extra = @draft/Net()",
        "lab.gin:3: two different configs are named draft/Net",
    ),
}


@pytest.mark.parametrize("text, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_its_place(lab, text, message):
    with pytest.raises(ConfigError) as error:
        lab(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "override, message",
    [
        ("Net.width", "--set Net.width: write --set Name.field=value"),
        ("Net.widht=3", "--set: Net has no field 'widht'; did you mean width?"),
        ("Nte.width=3", "--set: unknown class 'Nte'; did you mean Net?"),
        ("Net.width=wide", "--set: Net.width = 'wide': expected int, got str"),
        ("Net.width=7", "--set: Net.width = 7: heads 4 does not divide width 7"),
        ("a/Net.width=8", "--set: a/Net.width is never used: "),
        ("Fit.steps=0", "--set: short/Fit.steps = 0: must be positive"),
        ("Sgd.lr=1 2", "--set: Expected newline."),
    ],
)
def test_a_wrong_override_is_named(lab, override, message):
    with pytest.raises(ConfigError) as error:
        lab(TWO_STAGES, override)
    assert str(error.value).startswith(message)


def test_an_override_that_a_scope_hides_is_refused(lab):
    """Else `--set Fit.steps=5` would seem to work and change nothing."""
    text = "Lab.task = @Sums()\nLab.stages = [@long/Fit()]\nlong/Fit.steps = 300\n"
    with pytest.raises(ConfigError, match=r"never used: long/Fit\.steps hides it"):
        lab(text, "Fit.steps=5")
    assert lab(text, "long/Fit.steps=5").experiment.stages[0].steps == 5
    # In a file it is the default of the scopes that bind nothing themselves.
    assert lab(text + "Fit.steps = 5").experiment.stages[0].steps == 300


def test_shells_eat_quotes_so_a_bare_override_is_text(lab):
    for value in ("mine", "/data/x-1.jsonl", "'mine'", "None"):
        if value == "None":
            with pytest.raises(ConfigError, match="expected str, got None"):
                lab(TWO_STAGES, f"Lab.name={value}")
        else:
            name = lab(TWO_STAGES, f"Lab.name={value}").experiment.name
            assert name == value.strip("'")


def test_a_missing_file_or_root_is_named(tmp_path, lab):
    lab("Lab.task = @Sums()")
    with pytest.raises(ConfigError, match=r"^lba\.gin: no such .*mean lab\.gin\?$"):
        load("lba.gin", root="Lab")
    with pytest.raises(ConfigError, match=r"^lab\.gin: unknown class 'Lob'; .* Lab\?$"):
        load("lab.gin", root="Lob")
    with pytest.raises(ConfigError, match="is a directory"):
        load(tmp_path, root="Lab")
    (tmp_path / "bad.gin").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"^bad\.gin: not utf-8 text$"):
        load("bad.gin", root="Lab")


WORDS = ["Lab", "Net", "task", "width", "@", "()", "=", ".", "/", "%", "[", "]", "(",
         ")", ",", ":", "{", "\n", "\n  ", " ", "1", "-", "'", '"""', "#", "\\", "$",
         "include", "import", "True", "\t", "\x00", "é", "@Sums()"]  # fmt: skip


@settings(max_examples=300)
@given(text=st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
@example(text='include"""\n"""')
def test_any_text_loads_or_is_refused_in_one_line(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.gin"
    file.write_text("Lab.task = @Sums()\n" + text)
    try:
        load(file, root="Lab")
    except ConfigError as error:
        assert "\n" not in str(error) and str(error).startswith(str(file))


def test_a_workdir_keeps_the_config_it_was_made_with(lab, tmp_path):
    workdir = tmp_path / "runs" / "lab"
    first = lab(TWO_STAGES)
    check_workdir(first, workdir)
    assert (workdir / "config.gin").read_text() == first.operative()
    assert load(workdir / "config.gin", root="Lab").experiment == first.experiment

    check_workdir(lab(TWO_STAGES, "Fit.log_every=1"), workdir)
    kept = (workdir / "config.gin").read_text()
    assert "long/Fit.log_every = 1\n" in kept

    with pytest.raises(ConfigError) as error:
        check_workdir(lab(TWO_STAGES, "Net.width=128", "long/Sgd.lr=2"), workdir)
    assert str(error.value) == (
        f"{workdir} holds a run of another config (long/Sgd.lr was 1.0, is 2.0; "
        "Net.width was 96, is 128): choose a fresh --workdir"
    )
    assert (workdir / "config.gin").read_text() == kept
    assert [file.name for file in workdir.iterdir()] == ["config.gin"]


def test_a_workdir_of_other_stages_shows_what_is_absent(lab, tmp_path):
    check_workdir(lab(TWO_STAGES), tmp_path)
    one = lab("Lab.task = @Sums()\nLab.stages = [@short/Fit()]")
    with pytest.raises(ConfigError) as error:
        check_workdir(one, tmp_path)
    # 4 rows changed (stages, steps, decay, width) and 6 of the scope `long` are gone.
    assert "(Lab.stages was (@short/Fit(), @long/Fit()), is " in str(error.value)
    assert str(error.value).endswith(" and 6 more): choose a fresh --workdir")


def test_only_frozen_dataclasses_of_distinct_names_are_configs():
    with pytest.raises(TypeError, match="Loose: @configurable goes above a frozen"):
        configurable(dataclass(type("Loose", (), {})))
    with pytest.raises(TypeError, match="Child: @configurable goes above a frozen"):
        configurable(type("Child", (Net,), {}))  # a subclass that is no dataclass
    with pytest.raises(TypeError, match=r"has a config class Net already"):
        elsewhere = type("Net", (), {"__module__": "elsewhere"})
        configurable(dataclass(frozen=True)(elsewhere))


def test_importing_config_does_not_import_jax():
    code = "import sys, o1jax.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
