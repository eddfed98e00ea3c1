"""What a mistaken name of an environment was meant to be: found by looking where PettingZoo's games lie."""

import importlib.util
import pkgutil
import re

from spnpolicy.envs.registry import PETTINGZOO

HOMES = ("mpe2", *(f"pettingzoo.{family}" for family in ("butterfly", "classic", "sisl", "atari")))
"""Packages of PettingZoo's own games; each game is a module with a version, such as simple_spread_v3."""
_GAME = re.compile(r"(\w+?)(_v\d+)?")


def hint(name: str) -> str:
    """Return the sentence that leads from a mistaken name to the right one; empty where nobody can tell.

    Understood are a missing prefix, package or part of it, a slash or colon for a point, an old version or none, and a
    package that has moved. Nothing is imported but packages in which a game might lie.
    """
    prefix, colon, rest = name.partition(":")
    has_prefix = bool(colon) and prefix.strip().lower() == PETTINGZOO[:-1]
    target = re.sub(r"[:/\\.]+", ".", (rest if has_prefix else name).strip())
    parent, point, game = target.rpartition(".")
    form = _GAME.fullmatch(game)
    if has_prefix and not point and (games := games_in(f"pettingzoo.{game}")):
        return f"Name a game, such as '{PETTINGZOO}pettingzoo.{game}.{games[0]}'."
    if form is None or not (point or form[2]):
        return ""
    for home in (parent, f"pettingzoo.{parent}", *HOMES) if point else HOMES:
        found = [each for each in games_in(home) if each.startswith(f"{form[1]}_v")]
        if found:
            right = f"{PETTINGZOO}{home}.{game if game in found else found[-1]}"
            return f"Did you mean {right!r}?" if right != name else ""
    if not all(part.isidentifier() for part in target.split(".")):
        return ""
    right = f"{PETTINGZOO}{target}"
    if has_prefix:
        return f"Did you mean {right!r}?" if right != name else ""
    return f"A PettingZoo environment is named {right!r}, a batch of your own '{parent}:{game}'." if not colon else ""


def games_in(package: str) -> list[str]:
    """Return the names of the games in a package, without importing them; none if there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except Exception:
        # Finding a.b imports a, which may be anybody's and fail; that is no game then.
        return []
    places = (spec and spec.submodule_search_locations) or []
    games = [info.name for info in pkgutil.iter_modules(places) if re.fullmatch(r"\w+_v\d+", info.name)]
    return sorted(games, key=lambda game: (len(game), game))
