"""Off-policy replay: what another curator's selections would have been worth at the actor states that a log visited."""

from curbench.replay.log import Log, read_log
from curbench.replay.replay import Replay, replay, replay_run

__all__ = ["Log", "Replay", "read_log", "replay", "replay_run"]
