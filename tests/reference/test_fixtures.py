"""The golden fixtures that ship with the package are what the NumPy reference makes today."""

import pytest
from reference import generate


@pytest.fixture(scope="module")
def made():
    return generate.make()


def test_the_stored_fixtures_are_what_the_reference_makes(made):
    assert generate.differences(generate.read(generate.GOLDEN), made) == []


def test_a_changed_fixture_is_noticed(made, tmp_path, monkeypatch, capsys):
    generate.write(tmp_path, made)
    assert generate.differences(generate.read(tmp_path), made) == []
    options, arrays = made["behaviour"]["returns/random"]
    changed = {**arrays, "out.returns": arrays["out.returns"] * (1 + 1e-11)}
    made = made | {"behaviour": made["behaviour"] | {"returns/random": (options | {"gamma": 0.8}, changed)}}
    assert generate.differences(generate.read(tmp_path), made) == ["returns/random", "returns/random out.returns"]
    monkeypatch.setattr(generate, "GOLDEN", tmp_path)
    monkeypatch.setattr(generate, "make", lambda: made)
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == "differs: returns/random\ndiffers: returns/random out.returns\n"
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
