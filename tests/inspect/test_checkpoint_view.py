"""The inspector's text and page: what is drawn, and that names are only data."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from rich.cells import cell_len

from o1jax.inspect.checkpoint import Checkpoint
from o1jax.inspect.checkpoint_diff import Change, Moved, Structure
from o1jax.inspect.checkpoint_item import Array, Sharding
from o1jax.inspect.checkpoint_page import page, write_page
from o1jax.inspect.checkpoint_report import Diff, Inspection, StageSummary, to_json
from o1jax.inspect.checkpoint_spectrum import Spectrum
from o1jax.inspect.checkpoint_stats import ArrayStats, Dead, StatsError
from o1jax.inspect.checkpoint_store import Zarr
from o1jax.inspect.checkpoint_text import lines
from o1jax.inspect.checkpoint_tree import optimizer_slots, tree_rows

HOSTILE = "\x1b[2J</script><script>alert(1)</script>\u202e"
MESH = (("fsdp", 2), ("tensor", 1))


def array(path, *shape, dtype="float32", spec=(), value=None, chunk=None, problems=()):
    chunk = chunk or shape
    zarr = Zarr(3, shape, dtype, chunk, chunk, "zstd")
    sharding = Sharding(spec, MESH, "NamedSharding")
    chunks = 1
    for size, part in zip(shape, chunk):
        chunks *= size // part
    return Array(path, path, zarr, chunks, 100, sharding, value, problems, {})


def checkpoint(**changes):
    shapes = {"embed": (8, 4), "layers/up": (2, 4, 16), "norm": (4,)}
    fsdp = ("fsdp", "")

    def trees(root):
        yield array(f"{root}/embed", 8, 4, spec=fsdp, chunk=(4, 4))
        yield array(f"{root}/layers/up", *shapes["layers/up"])
        yield array(f"{root}/norm", 4)

    whole = {
        "url": "/runs/a/000100",
        "number": 100,
        "writer": "orbax v1",
        "format": "zarr3 in OCDBT",
        "processes": 2,
        "written": "2026-01-02 03:04:05 UTC",
        "params": tuple(trees("params")),
        "optimizer": (
            *trees("opt_state/0/mu"),
            *trees("opt_state/0/nu"),
            array("opt_state/0/count", dtype="int32", value=100),
        ),
        "other": (array("step", dtype="int32", value=100),),
        "leaves": {"name": "None"},
        "documents": {"meta": {"position": {"record": 6400}}},
        "config": ("/runs/a/config.gin", "A.x = 1\nA.y = 2\n"),
        "files": 9,
        "stored": 12345,
        "problems": (),
    }
    return Checkpoint(**whole | changes)


def inspection(**changes):
    whole = {
        "where": "runs/a",
        "stages": (),
        "checkpoint": checkpoint(),
        "stats": None,
        "failed": (),
        "diff": None,
        "problems": (),
    }
    return Inspection(**whole | changes)


def stats(path, **changes):
    whole = {
        "path": path,
        "norm": 3.0,
        "rms": 0.5,
        "mean": 0.0,
        "least": -1.0,
        "largest": 1.5,
        "zeros": 0,
        "nan": 0,
        "inf": 0,
        "outliers": 0,
        "dead": (),
        "magnitudes": {-1: 20, 0: 12},
        "spectra": (),
    }
    return ArrayStats(**whole | changes)


FULL = inspection(
    stages=(StageSummary("checkpoints/a", ("000050", "000100"), checkpoint()),),
    stats=(
        stats(
            "params/layers/up",
            dead=(Dead(1, 3, 8),),
            spectra=(Spectrum((2.5, 1.0), 3.2, 4), Spectrum((3.0, 0.5), 1.4, 4)),
        ),
        stats("params/norm", nan=2, norm=float("nan")),
    ),
    failed=(StatsError("params/embed", "one chunk is 9.00 GiB", False),),
    diff=Diff(
        checkpoint(url="/runs/a/000050"),
        Structure((Change("A.x", "1", "2"),), (), (), ()),
        (
            Moved("params/layers/up", 0.3, 0.25, 0.97, 0.1, 0, (0.1, 0.35)),
            Moved("params/norm", 0.0, 0.0, 1.0, 0.0, 0, ()),
        ),
        (),
    ),
    problems=("state/d/77: missing (params/embed)",),
)


def text(found, width=100, **options):
    return "\n".join(line.text for line in lines(found, width=width, **options))


TABLE = """\
array                 shape        dtype    sharding    chunks        bytes  stored
params                3 arrays                                        656 B   300 B
├─ embed              8 × 4        float32  fsdp, –     2 of 4 × 4    128 B   100 B
├─ layers/up          2 × 4 × 16   float32  replicated                512 B   100 B
└─ norm               4            float32  replicated                 16 B   100 B
optimizer             7 arrays                                      1.32 kB   700 B
├─ opt_state/0/mu     like params  float32                            656 B   300 B
├─ opt_state/0/nu     like params  float32                            656 B   300 B
└─ opt_state/0/count  = 100        int32    replicated                  4 B   100 B
other                 1 array                                           4 B   100 B
└─ step               = 100        int32    replicated                  4 B   100 B
name                  None
"""  # noqa: RUF001


def test_a_small_checkpoint_line_for_line():
    drawn = text(inspection())
    head, table, documents, config = drawn.split("\n\n")
    assert head.split("\n") == [
        "/runs/a/000100",
        "orbax v1 · zarr3 in OCDBT · 2 processes · committed 2026-01-02 03:04:05 UTC "
        "· 9 files, 12.3 kB",
        "164 parameters in float32 · saved on mesh fsdp=2 tensor=1",
    ]
    assert table + "\n" == TABLE
    assert documents == "documents\n  meta/position  record 6,400"
    assert config.startswith("config  /runs/a/config.gin: 2 lines")
    assert text(inspection(), config=True).endswith("\n  A.x = 1\n  A.y = 2")


def test_layers_that_are_alike_are_one_row():
    names = [f"params/layer_{i}/{leaf}" for i in range(12) for leaf in ("up", "down")]
    arrays = [array(name, 4, 4) for name in names]
    assert [(row.name, len(row.arrays)) for row in tree_rows(arrays, "params")] == [
        ("layer_{0…11}", 0),
        ("up", 12),
        ("down", 12),
    ]
    # One that differs stands apart, and so do the layers around it.
    arrays[10] = array("params/layer_5/up", 4, 8)
    found = [row.name for row in tree_rows(arrays, "params")]
    assert "layer_5" in found and "layer_{0…11}" not in found


def test_a_moment_that_is_laid_out_otherwise_says_so():
    changed = checkpoint()
    first, *others = changed.optimizer
    first = first._replace(zarr=first.zarr._replace(dtype="bfloat16"))
    slots, rest = optimizer_slots(changed._replace(optimizer=(first, *others)))
    assert [(slot.path, slot.differs) for slot in slots] == [
        ("opt_state/0/mu", "dtype"),
        ("opt_state/0/nu", ""),
    ]
    assert [a.path for a in rest] == ["opt_state/0/count"]
    incomplete = changed._replace(optimizer=tuple(others))
    assert [slot.path for slot in optimizer_slots(incomplete)[0]] == ["opt_state/0/nu"]


def test_everything_that_was_found_is_said():
    drawn = text(FULL, width=150)
    for piece in (
        "checkpoints/a     100",
        "3/8 on axis 1",
        "2.5 to 3",
        "1 to 3 of 4",
        "params/embed: not measured: one chunk is 9.00 GiB",
        "A.x",
        "→ 2",
        "1 arrays moved, 1 are the same",
        "0.1 to 0.35, most in layer 1",
        "1 problem",
        "state/d/77: missing (params/embed)",
    ):
        assert piece in drawn, piece
    styles = {line.text: line.style for line in lines(FULL, width=150)}
    assert styles["  state/d/77: missing (params/embed)"] == "red"
    assert next(s for t, s in styles.items() if t.startswith("params/norm")) == "red"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_screen(width):
    drawn = text(FULL, width).split("\n")
    tables = [line for line in drawn if re.search("layers/up|opt_state|A.x", line)]
    assert len(tables) > 5 and max(map(cell_len, tables)) <= width


def test_the_terminal_obeys_no_name():
    odd = array(f"params/{HOSTILE}", 2, problems=("gone",))
    found = inspection(
        checkpoint=checkpoint(params=(odd,), documents={HOSTILE: {"a": HOSTILE}}),
        stats=(stats(odd.path),),
        problems=(HOSTILE,),
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", text(found))


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the words outside of tags."""

    def __init__(self, content):
        super().__init__()
        self.found, self.words = [], ""
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data


def test_the_page_says_the_same_and_nothing_in_it_runs_or_loads():
    read = Elements(page(FULL))
    for piece in ("layers/up", "2.5 to 3", "missing (params/embed)", "A.y = 2", "0.25"):
        assert piece in read.words
    (policy,) = [a["content"] for _, a in read.found if "http-equiv" in a]
    for kind in ("style", "script"):
        own = re.search(f"<{kind}>(.*?)</{kind}>", page(FULL), re.S)[1]
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    attributes = {name for _, own in read.found for name in own}
    assert not attributes & {"src", "href", "style", "onclick", "onload"}
    assert {"svg", "rect", "polyline"} <= {tag for tag, _ in read.found}


def test_no_name_becomes_markup():
    def shown(name):
        named = checkpoint(
            url=name,
            params=(array(f"params/{name}", 4),),
            leaves={name: name},
            documents={name: {"a": name}},
            config=(name, name),
        )
        stage = StageSummary(name, (name,), named)
        found = FULL._replace(
            stages=(stage,),
            checkpoint=named,
            stats=(stats(name),),
            failed=(StatsError(name, name, True),),
            diff=Diff(
                named, Structure((Change(name, name, name),), (), (), ()), (), ()
            ),
            problems=(name,),
        )
        return Elements(page(found))

    assert shown(HOSTILE).found == shown("harmless").found


def test_json_holds_it_all_and_no_nan(tmp_path):
    found = json.loads(json.dumps(to_json(FULL), allow_nan=False))
    embed = found["checkpoint"]["params"][0]
    assert embed["path"] == "params/embed" and embed["bytes"] == 128
    assert embed["zarr"]["chunk_shape"] == [4, 4] and embed["chunks"] == 2
    assert embed["sharding"]["spec"] == ["fsdp", ""]
    assert embed["sharding"]["mesh"] == {"fsdp": 2, "tensor": 1}
    assert found["stats"][1]["norm"] is None and found["stats"][1]["nan"] == 2
    assert found["diff"]["other"] == {"url": "/runs/a/000050", "number": 100}
    assert found["problems"] == list(FULL.problems)
    write_page(tmp_path / "page.html", FULL)
    assert [*tmp_path.iterdir()] == [tmp_path / "page.html"]
    assert (tmp_path / "page.html").read_text() == page(FULL)
