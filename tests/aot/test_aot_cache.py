"""What was compiled is kept, and a damaged file is compiled anew."""

from o1jax.aot import cache

COMPILED = cache.Compiled({"arguments": 5}, 1.5, "HloModule m")


def test_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setenv("O1JAX_AOT_CACHE", str(tmp_path / "kept"))
    name = cache.key("text", "v5e:4x4", "1.0")
    assert cache.read(name) is None
    cache.write(name, COMPILED)
    assert cache.read(name) == COMPILED._replace(from_cache=True)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert cache.read(name) is None


def test_a_key_is_of_all_parts():
    keys = {cache.key(*parts) for parts in (("a", "b"), ("ab", ""), ("a", "c"), ("a",))}
    assert len(keys) == 4


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv("O1JAX_AOT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "o1jax" / "aot"
