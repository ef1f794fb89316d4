"""What each cause means and what to do about it, in words for a person."""

from __future__ import annotations

from fedge.drift.words import Cause, Scope

MEANING: dict[Cause, str] = {
    "covariate": "the inputs moved",
    "label": "the shares of the classes moved",
    "concept": "the same inputs now have other answers",
    "ood": "rows came unlike any in the reference",
    "sensor": "a sensor or its conversion is at fault",
    "unknown": "something moved, but what kind of change it is cannot be told",
}

ADVICE: dict[Cause, str] = {
    "covariate": "Check how the model does on the new inputs. If it lost accuracy, retrain with "
    "rows since the onset; if not, take them as the new reference.",
    "label": "Correct the model for the new class shares; retraining is rarely needed. Look first "
    "whether the change is wanted, as with a new customer or product.",
    "concept": "Retrain with labelled rows since the onset, and leave out older ones that "
    "contradict them. Until then do not trust the model's confidence.",
    "ood": "Look at the unfamiliar rows before anything is retrained: the model has no ground "
    "to answer them. Send them to a person or another model.",
    "sensor": "Check the sensor behind the named columns, its wiring and its unit. Keep its rows "
    "out of training and out of baselines: retraining would teach the model the fault.",
    "unknown": "Look at the named columns around the onset; labels for some of these rows would "
    "tell whether the model is affected.",
}

SCOPE: dict[Scope, str] = {
    "gateway": "here alone",
    "fleet": "on the whole fleet",
    "unknown": "not told: one stream has nothing to be compared with",
}
