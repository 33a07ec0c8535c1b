"""kill -9 at random moments, twenty times over 1, 2 and 4 processes: nothing is lost.

Each run of it must end with the metrics, parameters, samples and trees of one that was
left alone, bit for bit, and no start may lose a step that was saved.
"""

import random

import pytest
from test_several_hosts import arrays, read


def assert_bit_equal(a, b):
    files = [*a.glob("predictions/*"), a / "metrics.jsonl"]
    assert len(files) == 3
    for file in files:
        assert file.read_bytes() == (b / file.relative_to(a)).read_bytes(), file
    for file in a.glob("stages/*"):
        mine, theirs = read(file), read(b / file.relative_to(a))
        assert (mine["results"], mine["ledger"]) == (
            theirs["results"],
            theirs["ledger"],
        )
    mine, theirs = arrays(a), arrays(b)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def saved(workdir):
    """The newest step with a name of its own; 0 if there is none."""
    found = workdir.glob("checkpoints/*/*")
    return max((int(x.name) for x in found if x.name.isdecimal()), default=0)


@pytest.mark.multihost
@pytest.mark.slow  # some thirty starts of up to four processes: 6 minutes
@pytest.mark.parametrize(("count", "kills"), [(1, 8), (2, 7), (4, 5)])
def test_killed_at_random_it_ends_where_it_would_have(start, tmp_path, count, kills):
    often = ("--set", "Imitate.checkpoint_every=5", "--set", "Imitate.steps=60")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    code, _, err = start(alone, count, *often).end()
    assert code == 0, err
    rng, hits, last = random.Random(count), 0, 0
    while hits < kills:
        job = start(killed, count, *often)
        behind = rng.randrange(1, 6)
        # Behind a new save, between two, and while it starts: a start that is not
        # killed too soon has something to go on from.
        there, wait = (
            (lambda: saved(killed) > last, 0.5),  # noqa: B023
            (lambda: job.steps() >= last + behind, 0.3),  # noqa: B023
            (job.started, 3),
        )[hits % 3]
        wait = rng.uniform(0, wait)
        if not job.until(there):
            break
        try:
            job.wait(wait)
            job.kill(rng.randrange(count))
        except ProcessLookupError:  # it was through
            break
        code, _, err = job.end()
        assert code != 0
        hits += 1
        print(f"{count} processes, kill {hits}: {saved(killed)} saved", flush=True)
        assert saved(killed) >= last
        last = saved(killed)
    assert hits == kills
    assert last > 0
    code, _, err = start(killed, count, *often).end()
    assert code == 0, err
    assert_bit_equal(alone, killed)
