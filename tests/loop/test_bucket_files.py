"""What goes into a bucket and what comes out of it: a store in memory as the bucket."""

import itertools
from types import SimpleNamespace

import fsspec
import pytest
from etils import epath

from o1jax.loop import bucket as buckets
from o1jax.loop.bucket import Bucket, BucketError, bucket_of, open_workdir
from o1jax.loop.places import Places

names = map("run-{}".format, itertools.count())


@pytest.fixture
def store():
    """Objects of the bucket, by the addresses of runs."""
    files = fsspec.filesystem("memory")
    yield files.store
    files.store.clear()


@pytest.fixture
def bucket(tmp_path, store):
    """A workdir there, and its mirror."""
    made = Bucket(f"memory://{next(names)}", tmp_path / "mirror")
    made.clear()
    return made


def write(bucket, *names):
    for name in names:
        file = bucket.mirror / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{name}, written")


def there(bucket, store):
    start = f"/{bucket.url.removeprefix('memory://')}/"
    return [name.removeprefix(start) for name in store if name.startswith(start)]


def test_all_files_but_checkpoints_and_what_is_being_written(bucket, store):
    own = ["config.gin", "metrics.jsonl", "rewards/01-r/data.npz", "trees/grow.jsonl"]
    not_own = [
        "checkpoints/00-a/000010/state/x",
        "adapters/00-a/000010/state/x",
        "rewards/01-r/000010/meta",
        "data/records-1/x",
        ".config.gin.7",
        "stages/.00-a.json.partial",
        "metrics.tmp",
    ]
    write(bucket, *own, *not_own)
    bucket.push()
    assert there(bucket, store) == own


def test_a_record_goes_behind_what_it_speaks_of(bucket, store):
    files = [
        "metrics.jsonl",
        "predictions/01-b.jsonl",
        "rewards/00-a/data.npz",
        "rewards/00-a/data.json",
        "stages/00-a.json",
        "stages/01-b.json",
    ]
    write(bucket, *reversed(files))
    bucket.push()
    assert there(bucket, store) == files


def test_only_what_changed_is_uploaded(bucket, store):
    write(bucket, "config.gin", "metrics.jsonl")
    bucket.push()
    store.clear()
    bucket.push()
    assert there(bucket, store) == []
    with (bucket.mirror / "metrics.jsonl").open("a") as file:
        file.write("more\n")
    bucket.push()
    assert there(bucket, store) == ["metrics.jsonl"]


def test_another_machine_gets_what_was_pushed_and_no_more(bucket, tmp_path, store):
    write(bucket, "config.gin", "stages/00-a.json", "rewards/01-r/data.npz")
    write(bucket, "tensorboard/events")
    bucket.push()
    steps = ("checkpoints/00-a/000010/state/x", "rewards/01-r/000010/state/x")
    files = fsspec.filesystem("memory")
    for name in steps:  # as orbax writes them
        files.pipe_file(f"{bucket.url}/{name}", b"array")
    other = Bucket(bucket.url, tmp_path / "other")
    write(other, "stages/01-b.json", "data/records-1/x")  # of a run that was killed
    other.clear()
    other.pull()
    found = [file for file in other.mirror.rglob("*") if file.is_file()]
    assert {file.relative_to(other.mirror).as_posix() for file in found} == {
        "config.gin",
        "stages/00-a.json",
        "rewards/01-r/data.npz",
        "data/records-1/x",  # which each machine prepares for itself
    }
    text = (other.mirror / "stages/00-a.json").read_text()
    assert text == "stages/00-a.json, written"
    # A second look takes what is new, and what it took is not uploaded again.
    write(bucket, "stages/01-b.json")
    bucket.push()
    (other.mirror / "config.gin").unlink()
    other.pull()
    assert (other.mirror / "stages/01-b.json").exists()
    assert not (other.mirror / "config.gin").exists()
    store.clear()
    other.push()
    assert there(other, store) == []


def test_a_folder_is_what_it_was_and_other_stores_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_workdir(tmp_path) == tmp_path
    assert bucket_of(tmp_path) is None
    with pytest.raises(BucketError, match=r"^ftp://host/run: a workdir is a folder, "):
        open_workdir("ftp://host/run")
    with pytest.raises(BucketError, match=r"^gs://: a workdir is a folder, "):
        open_workdir("gs://")


def test_what_fails_is_one_line_with_the_name(bucket, store, monkeypatch):
    write(bucket, "config.gin")

    def refuse(*_):
        raise OSError(5, "no such luck\nat all")

    monkeypatch.setattr(bucket._files, "pipe_file", refuse)
    with pytest.raises(BucketError) as error:
        bucket.push()
    said = f"{bucket.url}: config.gin can't be written: [Errno 5] no such luck"
    assert str(error.value) == said
    monkeypatch.undo()
    bucket.push()  # it is tried again
    assert there(bucket, store) == ["config.gin"]


def test_a_mirror_is_opened_once(tmp_path, monkeypatch, store, capfd):
    """One to run in, one to look at it: a look must not disturb the run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(buckets.EXTRAS, "memory", "")
    monkeypatch.setattr(buckets, "_mirrors", {})
    run = open_workdir("memory://a/run", to_run=True)
    write(bucket_of(run), "config.gin", "metrics.jsonl")
    bucket_of(run).push()
    look = open_workdir("memory://a/run/")
    assert look != run and run.parent == look.parent == tmp_path / "o1jax/workdirs"
    assert (look / "metrics.jsonl").exists()
    assert open_workdir("memory://a/run", to_run=True) == run
    assert (run / "metrics.jsonl").exists()
    said = capfd.readouterr().err.splitlines()
    assert said == [f"memory://a/run is mirrored in {x}" for x in (run, look)]


def test_the_steps_of_another_run_may_be_in_a_bucket(tmp_path):
    run, there = Places(), epath.Path("gs://bucket/imported/checkpoints/00-pretrained")
    run.experiment, run.path = (
        SimpleNamespace(stages=[SimpleNamespace(name="a")]),
        tmp_path,
    )
    assert run.checkpoints(0) == tmp_path / "checkpoints/00-a"
    run.link(0, there)
    assert run.checkpoints(0) == there
