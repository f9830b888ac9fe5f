"""Provenance: stages of a bundle, read back, and as a table."""

from __future__ import annotations

import json
from dataclasses import replace

from moediff.training.provenance import (
    Restart,
    Session,
    StageRecord,
    duration,
    stage_records,
    stages_table,
    with_session,
)

FIRST = StageRecord(name="backbone", steps=1200, seconds=5400.0, commit="0123456789-dirty", torch="2.6", seed=3)
SESSION = Session(step=0, commit="0123", torch="2.6", hardware="2 x x86_64", precision="float32")
SECOND = StageRecord(
    name="experts",
    finished=False,
    steps=7,
    seconds=12.3,
    parent_sha256=("ab" * 32,),
    restarts=(Restart(step=3, seconds=5.0, from_sha256="cd" * 32),),
    sessions=(SESSION, replace(SESSION, step=3, precision="bfloat16")),
    result={"cases": 3},
)


def test_records_come_back_as_they_were():
    provenance = json.loads(json.dumps({"stages": [FIRST.plain(), SECOND.plain()]}))
    assert stage_records(provenance) == (FIRST, SECOND)
    assert "restarts" not in FIRST.plain()


def test_a_session_is_one_of_its_own_where_what_computes_changed():
    one = with_session((), SESSION)
    assert one == (SESSION,) == with_session(one, replace(SESSION, step=7))
    for changed in ({"commit": "4567"}, {"torch": "2.7"}, {"hardware": "1 x x86_64"}, {"precision": "bfloat16"}):
        other = replace(SESSION, step=7, **changed)
        assert with_session(one, other) == (SESSION, other)


def test_bundles_of_before_have_no_stages():
    assert stage_records({}) == () and stage_records({"stages": [{"nonsense": 1}]}) == ()
    assert stages_table(()) == ""


def test_the_table_is_aligned_and_complete():
    lines = stages_table((FIRST, SECOND)).splitlines()
    assert lines[1].split() == ["1", "backbone", "train", "1200", "1:30", "h", "01234567+", "2.6"]
    assert lines[2].startswith("2  experts   train, 1 restarts, 2 sessions, unfinished  7      12 s    abababab")
    assert lines[3] == "1:30 h in all"


def test_short_and_long_times_can_be_read():
    assert [duration(seconds) for seconds in (0.4, 59, 60, 3600 * 30)] == ["0 s", "59 s", "0:01 h", "30:00 h"]
