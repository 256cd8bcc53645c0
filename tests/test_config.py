import pytest
from pydantic import BaseModel, ConfigDict

from curbench.config import parse_seeds, parse_settings, settings_of, split_work, validate


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rate: float = 0.1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    batch: int = 1
    inner: Inner = Inner()


def test_settings_nest_at_dots():
    assert parse_settings(["a=1", "b.c=x=y"]) == {"a": "1", "b": {"c": "x=y"}}


@pytest.mark.parametrize("text", [["a"], ["=1"], ["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=2", "a=1"]])
def test_malformed_settings_are_refused(text):
    with pytest.raises(ValueError, match="--set"):
        parse_settings(text)


def test_settings_of_one_curator_override_those_for_all():
    setting = {"eta": "1", "osmd": {"eta": "2"}}
    assert settings_of("osmd", setting, ["osmd", "sec"]) == {"eta": "2"}
    assert settings_of("sec", setting, ["osmd", "sec"]) == {"eta": "1"}
    with pytest.raises(ValueError, match="'pcl' is not among osmd, sec"):
        settings_of("osmd", {"pcl": {"x": "1"}}, ["osmd", "sec"])


@pytest.mark.parametrize("text", ["", "a", "3:", ":3", "2:2", "3:1", "-1", "1:2:3"])
def test_malformed_seeds_are_refused(text):
    with pytest.raises(ValueError, match="seeds"):
        parse_seeds(text)


def test_work_is_split_at_the_last_slash():
    assert split_work("a/b/c,d", "ARMS", "CURATOR") == ("a/b", ["c", "d"])


@pytest.mark.parametrize("text", ["a", "/a", "a/", "a/b,", "a/b,b"])
def test_malformed_work_is_refused(text):
    with pytest.raises(ValueError, match="expected|twice"):
        split_work(text, "ARMS", "CURATOR")


def test_an_unknown_setting_names_the_known_ones_at_its_level():
    with pytest.raises(ValueError, match="no setting 'inner.speed'; choose from rate"):
        validate(Outer, {"inner": {"speed": "1"}})
    with pytest.raises(ValueError, match="no setting 'bacth'; choose from batch, inner"):
        validate(Outer, {"bacth": "1"})


def test_a_value_of_the_wrong_type_says_what_was_given():
    with pytest.raises(ValueError, match="batch: .*integer.*; got 'many'"):
        validate(Outer, {"batch": "many"})
