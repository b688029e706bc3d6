"""Places: what the install machine calls where a bundle goes. A model has its own, and one for its challenger. Pure.

A place is the key of an install, of its slots and of their folder. That of a model is the model's name; that of its
challenger has a mark behind the name which no model's name can have.
"""

from collections.abc import Mapping

from dsops.directive import DesiredSlot, Directive
from dsops.messages import ChallengerState, ModelState

_MARK = "@challenger"


def challenger_place(model: str) -> str:
    """Return the place of a model's challenger."""
    return model + _MARK


def model_of(place: str) -> str:
    """Return the model whose bundles go to a place."""
    return place.removesuffix(_MARK)


def is_challenger(place: str) -> bool:
    """Return whether a place is a challenger's."""
    return place.endswith(_MARK)


def desired_places(directive: Directive) -> dict[str, DesiredSlot]:
    """Return what a directive wants in each place that it names."""
    rivals = {challenger_place(model): challenger.bundle for model, challenger in directive.challengers.items()}
    return {**directive.slots, **rivals}


def states_by_place(models: Mapping[str, ModelState]) -> dict[str, ModelState | ChallengerState]:
    """Return what is observed in each place, of models and of their challengers."""
    rivals = {challenger_place(model): state.challenger for model, state in models.items() if state.challenger}
    return {**models, **rivals}
