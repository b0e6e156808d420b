from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stages.core import config
from stages.core.config import load_class, make_ref, merge, structured
from stages.core.config_files import CONFIGS, find_config, parse_overrides, read_yaml
from stages.core.errors import BadInput


@dataclass
class Schema:
    name: str = "none"
    size: int = 4
    rate: float = 1.0
    tags: list[str] = field(default_factory=list)


STEP = {"use": "tests.toys:Words", "suffix": "!"}


def refused(*layers, schema=Schema) -> str:
    with pytest.raises(BadInput) as caught:
        merge(schema, layers)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_layers_win_in_order():
    settings, steps = merge(
        Schema,
        [("a.yaml", {"size": 5, "steps": {"words": STEP}}), ("words", parse_overrides(["words.suffix=_", "rate=2"]))],
    )
    assert (settings.size, settings.rate) == (5, 2.0)
    assert steps["words"].config.suffix == "_"


def test_a_step_can_be_switched_off():
    assert merge(Schema, [("a", {"steps": {"words": {**STEP, "enabled": False}}})])[1] == {}


def test_a_step_stands_before_one_that_is_switched_off_too():
    steps = {"first": STEP, "last": STEP, "mine": {**STEP, "before": "last"}, "early": {**STEP, "before": "first"}}
    assert list(merge(Schema, [("a", {"steps": steps})])[1]) == ["early", "first", "mine", "last"]
    off = {**steps, "last": {**STEP, "enabled": False}}
    assert list(merge(Schema, [("a", {"steps": off})])[1]) == ["early", "first", "mine"]
    off["mine"] = {**STEP, "before": "lost"}
    assert "'lost', which is not a step; did you mean 'last'" in refused(("a", {"steps": off}))


def test_a_typo_names_its_nearest_neighbour():
    assert "'sise'; did you mean 'size'" in refused(("a.yaml", {"sise": 1}))
    assert "a.yaml" in refused(("a.yaml", {"sise": 1}))
    assert "did you mean 'suffix'" in refused(("a.yaml", {"steps": {"words": {**STEP, "sufix": "x"}}}))
    assert "did you mean 'Words'" in refused(("a.yaml", {"steps": {"words": {"use": "tests.toys:Wrods"}}}))
    assert "did you mean 'words'" in refused(
        ("a", {"steps": {"words": STEP}}), ("line", parse_overrides(["wrods.suffix=x"]))
    )
    assert "did you mean 'cpus'" in refused(("a", {"steps": {"words": {**STEP, "resources": {"cpu": 1}}}}))


def test_a_wrong_type_names_the_key_and_the_layer():
    message = refused(("b.yaml", {"size": "large"}))
    assert "b.yaml" in message
    assert "size" in message
    assert refused(("a", {"steps": {"words": {**STEP, "pause": "long"}}})).startswith("words.pause must be a number")


@pytest.mark.parametrize(
    "entries",
    [
        5,
        ["words"],
        "words",
        {"words": "tests.toys:Words"},
        {"words": {"suffix": "x"}},
        {"words": {**STEP, "resources": 3}},
        {"words": {**STEP, "after": 3}},
        {"words": {**STEP, "enabled": "nope"}},
    ],
    ids=str,
)
def test_steps_of_a_wrong_shape(entries):
    said = refused(("a.yaml", {"steps": entries}))
    assert said.startswith(("step words", "words.") if isinstance(entries, dict) else "a.yaml: steps must")


def test_after_may_be_one_name():
    assert make_ref("w", {**STEP, "after": "text"}).after == ("text",)


@pytest.mark.parametrize(
    "use",
    [
        "os:system",
        "builtins:eval",
        "subprocess:Popen",
        "stages:x",
        "../x:Y",
        "flows.cli.main:main",
        "stagesx.y:Z",
        "",
        None,
    ],
)
def test_use_stays_inside_our_packages(use):
    with pytest.raises(BadInput, match="inside"):
        load_class(use, "words")


def test_production_allows_only_our_packages():
    """The tests' own extension is made in conftest and nowhere else."""
    assert config.PACKAGES[:2] == ("stages.", "data_prep.")
    assert set(config.PACKAGES[2:]) <= {"tests."}


def test_unknown_modules_and_classes():
    with pytest.raises(BadInput, match="no module"):
        load_class("stages.nowhere:Thing", "words")
    with pytest.raises(BadInput, match="has no step 'Storage'"):
        load_class("stages.core.ledger.storage:Storage", "words")


def test_broken_yaml_names_the_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nsize: 3\n  rate: [1\n")
    with pytest.raises(BadInput, match=r"bad\.yaml, line \d"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("data", "says"), [(b"- a\n- b\n", "must hold keys"), (b"\xff\xfe\x00", "bad.yaml"), (b"a: 1\na: 2\n", "bad.yaml")]
)
def test_files_that_are_no_config(tmp_path, data, says):
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=says):
        read_yaml(path)


def test_an_override_that_is_no_yaml_is_one_sentence():
    with pytest.raises(BadInput) as caught:
        parse_overrides(["size=?"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["size", "=3", " =3"])
def test_overrides_need_a_key(word):
    with pytest.raises(BadInput, match="key=value"):
        parse_overrides([word])


def test_an_unknown_key_of_a_step_names_the_file_it_stands_in():
    cascade = ("cascade.yaml", {"steps": {"words": STEP}})
    said = refused(cascade, ("mine.yaml", {"words": {"sufix": "x"}}))
    assert said == "mine.yaml: words: unknown key 'sufix'; did you mean 'suffix'?"
    said = refused(cascade, ("mine.yaml", {"words": {"resources": {"cpu": 1}}}), ("the command line", {"size": 3}))
    assert said == "mine.yaml: words.resources: unknown key 'cpu'; did you mean 'cpus'?"


def test_a_missing_campaign_is_called_so():
    with pytest.raises(BadInput) as caught:
        find_config("missing.yaml", "campaigns")
    assert str(caught.value).startswith(
        "there is no campaign 'missing.yaml': no such file, and none of that name in configs/campaigns (known: "
    )


def test_a_missing_config_says_what_there_is(tmp_path):
    with pytest.raises(BadInput, match="there is no config 'nothing-like-it'"):
        find_config("nothing-like-it")
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\n")
    assert find_config(path) == path


def test_root_paths_resolve():
    settings, _ = merge(Schema, [("a", {"name": "${root:configs}"})])
    assert Path(settings.name) == CONFIGS


def test_checks_of_a_dataclass_are_one_sentence():
    @dataclass
    class Checked:
        size: int = 1

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError("size must not be negative")

    with pytest.raises(BadInput, match=r"^here\.size must not be negative"):
        structured(Checked, {"size": -1}, "here")


@dataclass
class Inner:
    rate: float = 1.0
    on: bool = False


@dataclass
class Outer:
    size: int = 1
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"inner": {"rte": 2}}, "here: unknown key 'inner.rte'; did you mean 'inner.rate'?"),
        ({"size": "big"}, "here.size must be a whole number, not 'big'"),
        ({"inner": {"rate": "fast"}}, "here.inner.rate must be a number, not 'fast'"),
        ({"inner": {"on": "perhaps"}}, "here.inner.on must be true or false, not 'perhaps'"),
        ({"size": None}, "here.size must not be null"),
        ({"inner": None}, "here.inner must not be null"),
    ],
)
def test_a_bad_value_is_one_plain_sentence(values, says):
    with pytest.raises(BadInput) as caught:
        structured(Outer, values, "here")
    assert str(caught.value) == says
