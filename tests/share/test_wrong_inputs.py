"""A wrong input of each surface gets one sentence, before anything is written."""

import pytest

import reverie
from reverie import UserError, cli


def new(**options):
    return reverie.Dreamer("CartPole-v1", preset="debug", run="run", **options)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: new(modules=5), "modules must be a dict"),
        (lambda: new(modules={"nose": print}), "no place 'nose'"),
        (lambda: new(modules={"heads": print}), "must be a dict of names"),
        (lambda: new().learn(data=5), "5 is no path"),
        (lambda: new().learn(60, demonstrations=5), "5 is no path"),
        (lambda: new().learn(60, demonstrations="nowhere"), "is no data set"),
        (lambda: new().learn(data="data", demonstrations="data"), "beside an environment"),
        (lambda: new().learn(60, callback=5), "is no callback"),
        (lambda: reverie.load("pretrained:nosuch"), "no trained agent 'nosuch'"),
        (lambda: reverie.load("hf://../x"), "no repository of the hub"),
        (lambda: reverie.load_player("nowhere"), "is not a run or a saved agent"),
        (lambda: reverie.load("pretrained:demo").save("file"), "something other than a saved agent"),
        (lambda: reverie.load("pretrained:demo").export("file.zip"), r"must end in \.onnx"),
        (lambda: reverie.load("pretrained:demo").export("file/x.onnx"), "cannot write"),
        (lambda: reverie.load("pretrained:demo").push_to_hub("bad name"), "no repository of the hub"),
    ],
)
def test_in_python(in_tmp, wrong, sentence):
    (in_tmp / "file").write_text("mine")
    with pytest.raises(UserError, match=sentence):
        wrong()
    assert [path.name for path in in_tmp.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["export", "nowhere", "--out", "x.onnx"], "is not a run or a saved agent"),
        (["export", "pretrained:nosuch", "--out", "x.onnx"], "no trained agent 'nosuch'"),
        (["export", "pretrained:demo", "--out", "x.zip"], "NAME.onnx"),
        (["serve", "pretrained:nosuch"], "no trained agent 'nosuch'"),
        (["serve", "pretrained:demo", "--host", "nowhere.invalid"], "not an address"),
        (["eval", "hf://../x"], "no repository of the hub"),
        (["import", "file", "--out", "data"], "no recorded experience"),
        (["import", "nowhere", "--out", "data"], "no recorded experience"),
        (["record", "Nope-v0", "--out", "data"], "Nope"),
        (["record", "CartPole-v1", "--policy", "agent", "--agent", "pretrained:demo", "--out", "data"], "another task"),
        (["record", "CartPole-v1", "--episodes", "1", "--out", "file/data"], "cannot write"),
        (["watch", "--pretrained", "nosuch"], "no trained agent 'nosuch'"),
    ],
)
def test_on_the_command_line(in_tmp, capsys, words, sentence):
    (in_tmp / "file").write_text("mine")
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err
    assert [path.name for path in in_tmp.iterdir()] == ["file"]
