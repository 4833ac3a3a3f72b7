"""What stands where an episode has ended before its last turn."""

from redraft.episode import Episode
from redraft.protocols.self_refine import SelfRefine, confirms


def settled(episode: Episode) -> Episode:
    """The episode with the verdict on what it ended with.

    Where Self-Refine's last reply confirms, the solution before it stands, as in the method's own
    code: the reply has that solution's grade. Any other episode is as it was.
    """
    turns = episode.turns
    if episode.protocol != SelfRefine.name or len(turns) < 2 or not confirms(turns[-1].attempt):
        return episode
    last = turns[-1].model_copy(update={"grade": turns[-2].grade})
    return episode.model_copy(update={"turns": [*turns[:-1], last]})


def at_rest(episode: Episode, turns: int) -> Episode:
    """A settled episode that the model itself has stopped, as one of `turns` turns: in those that
    it did not take its last answer stands and no token is generated."""
    episode = settled(episode)
    nothing = {"attempt_tokens": [], "logprobs": [], "completion_tokens": 0}
    rest = episode.turns[-1].model_copy(update=nothing)
    missing = turns - len(episode.turns)
    return episode.model_copy(update={"turns": [*episode.turns, *[rest] * missing]})
