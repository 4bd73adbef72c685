"""Every metric of an edit with its protocol: what is asked, how it is answered, and what the answer is held against.

Two papers' numbers compare only where the protocol agrees: "locality" held against the unedited model's answer reads
99 where "specificity" held against the true answer reads 24, for the same edits of the same model.

Protocol: "teacher-forced" (the answer is fed, its tokens' probabilities are read) or "generated" (the model writes).
Reference: "gold" (the answer a fact states), "pre-edit" (what the unedited model says) or "none".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pandas as pd

from ...errors import UsageError
from ...given import Names, names_of

REWRITE = "rewrite"
PARAPHRASE = "paraphrase"
NEIGHBOURHOOD = "neighbourhood"
SAME_SUBJECT = "same_subject"
ONE_HOP = "one_hop"
DISTRACTING = "distracting neighbourhood"
NEW_SUBJECT = "subject replacement"
REVERSED = "reversed relation"
NEW_ONE_HOP = "one hop from the new object"
LOGICAL = "logical generalization"

SHARE = "share"
DIFFERENCE = "difference of probabilities"

TEACHER_FORCED = "teacher-forced"
GENERATED = "generated"
GOLD = "gold"
PRE_EDIT = "pre-edit"

ROME = "Meng et al. 2022 (ROME), CounterFact"
ZSRE = "Meng et al. 2022 (ROME) and 2023 (MEMIT), zsRE"
YAO = "Yao et al. 2023"
KNOWEDIT = "Zhang et al. 2024 (KnowEdit)"
OWN = "this project"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: as in tables.
        meaning: in one sentence.
        unit: "share" lies between 0 and 1.
        better: "higher" or "lower".
        protocol: "teacher-forced" or "generated".
        reference: "gold", "pre-edit" or "none".
        source: who defined it.
        kind: the kind of question it averages over; empty where it is not about questions.
        answer: which answer it is about, "new" (the edit's object) or "true".
        rule: what is taken of each question: "preferred" (1 where it is likelier than the other answer), "margin" (by
            how much, in probability), "correct" (1 where each token is the most probable one), "accuracy" (the share
            of tokens that are), "unchanged" (the share of its token positions with the most probable token of the
            unedited model), "kept" ("correct", over questions the unedited model answers).
        parts: the metrics whose averages it is the harmonic mean of.
    """

    name: str
    meaning: str
    unit: str
    better: str
    protocol: str
    reference: str
    source: str
    kind: str = ""
    answer: str = ""
    rule: str = ""
    parts: tuple[str, ...] = ()

    @property
    def contrasts(self) -> bool:
        """Whether it weighs the new answer against the true one."""
        return self.rule in ("preferred", "margin")


def _forced(name: str, kind: str, answer: str, rule: str, meaning: str, source: str, reference: str = GOLD) -> Metric:
    unit = DIFFERENCE if rule == "margin" else SHARE
    return Metric(name, meaning, unit, "higher", TEACHER_FORCED, reference, source, kind, answer, rule)


def _score(name: str, parts: tuple[str, ...], source: str) -> Metric:
    meaning = f"harmonic mean of the averages of {', '.join(parts)}; 0 if one of them is 0"
    return Metric(name, meaning, SHARE, "higher", TEACHER_FORCED, GOLD, source, parts=parts)


_ALL = (
    _forced("ES", REWRITE, "new", "preferred", "the edited sentence: the new object is likelier than the true", ROME),
    _forced("EM", REWRITE, "new", "margin", "the edited sentence: P(new) - P(true)", ROME),
    _forced("ES_acc", REWRITE, "new", "correct", "the edited sentence is completed with the new object", ROME),
    _forced("PS", PARAPHRASE, "new", "preferred", "other wordings: the new object is likelier than the true", ROME),
    _forced("PM", PARAPHRASE, "new", "margin", "other wordings: P(new) - P(true)", ROME),
    _forced("PS_acc", PARAPHRASE, "new", "correct", "other wordings are completed with the new object", ROME),
    _forced("NS", NEIGHBOURHOOD, "true", "preferred", "other subjects: their object is likelier than the new", ROME),
    _forced("NM", NEIGHBOURHOOD, "true", "margin", "other subjects: P(their object) - P(new)", ROME),
    _forced("NS_acc", NEIGHBOURHOOD, "true", "correct", "other subjects are completed with their own object", ROME),
    _score("S", ("ES", "PS", "NS"), ROME),
    _forced("same_subject", SAME_SUBJECT, "true", "correct", "the subject's other facts are still answered", OWN),
    _forced("same_subject_kept", SAME_SUBJECT, "true", "kept",
            "of the subject's other facts that were answered before the edit, those that still are", OWN),
    _forced("one_hop", ONE_HOP, "true", "correct", "questions one step further, answered as the fact states", OWN),
    Metric("GE", "fluency: weighted entropy of the 2-grams and 3-grams of generated text (see analysis.fluency)",
           "bits x 100", "higher", GENERATED, "none", ROME),
    Metric("RS", "consistency: cosine of generated text with texts about subjects of which the new object is true "
           "(see analysis.references)", "cosine x 100", "higher", GENERATED, GOLD, ROME),
    _forced("zsre_efficacy", REWRITE, "new", "accuracy", "the edited question: share of the target's tokens", ZSRE),
    _forced("zsre_paraphrase", PARAPHRASE, "new", "accuracy", "its rephrasing: share of the target's tokens", ZSRE),
    _forced("zsre_specificity", NEIGHBOURHOOD, "true", "accuracy",
            "unrelated questions: share of the tokens of their true answer", ZSRE),
    _score("zsre_score", ("zsre_efficacy", "zsre_paraphrase", "zsre_specificity"), ZSRE),
    _forced("reliability", REWRITE, "new", "accuracy", "the edited sentence: share of the target's tokens", YAO),
    _forced("generalization", PARAPHRASE, "new", "accuracy", "other wordings: share of the target's tokens", YAO),
    _forced("locality", NEIGHBOURHOOD, "true", "unchanged",
            "other subjects: share of answer tokens as before", YAO, PRE_EDIT),
    _forced("locality_relations", SAME_SUBJECT, "true", "unchanged",
            "other relations of the subject: share of answer tokens as before", YAO, PRE_EDIT),
    _forced("locality_distracting", DISTRACTING, "true", "unchanged",
            "other subjects after the edit's own sentence: share of answer tokens as before", YAO, PRE_EDIT),
    _forced("NS_distracting", DISTRACTING, "true", "preferred",
            "other subjects after the edit's own sentence: their object is likelier than the new one",
            "Hoelscher-Obermaier et al. 2023 (CounterFact+)"),
    _forced("portability_subject", NEW_SUBJECT, "true", "accuracy",
            "the edited sentence with another name of the subject: share of the target's tokens", YAO),
    _forced("portability_reversed", REVERSED, "true", "accuracy",
            "the relation asked from the new object: share of the subject's tokens", YAO),
    _forced("portability_one_hop", NEW_ONE_HOP, "true", "accuracy",
            "one step further from the new object: share of the tokens of what then holds", YAO),
    _forced("portability_logical", LOGICAL, "true", "accuracy",
            "other relations that change with the edit: share of the tokens of what then holds", KNOWEDIT),
    Metric("perplexity", "exp of the mean negative log-probability per token of held texts", "perplexity", "lower",
           TEACHER_FORCED, GOLD, "Yang et al. 2024 (ME-PPL); other texts there"),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""All metrics by name, in the order of tables."""

COUNTERFACT = (
    "ES", "EM", "ES_acc", "PS", "PM", "PS_acc", "NS", "NM", "NS_acc", "S",
    "same_subject", "same_subject_kept", "one_hop",
)  # fmt: skip
"""Of Meng et al. 2022, with the subject's other facts and one step further."""

ZSRE_METRICS = ("zsre_efficacy", "zsre_paraphrase", "zsre_specificity", "zsre_score")

YAO_METRICS = (
    "reliability", "generalization", "locality", "locality_relations", "locality_distracting", "NS_distracting",
    "portability_subject", "portability_reversed", "portability_one_hop", "portability_logical",
)  # fmt: skip

GENERATION_METRICS = ("GE", "RS")


def chosen(names: Names) -> tuple[Metric, ...]:
    """Metrics by name, with the parts of scores, in the order of tables.

    Raises:
        UsageError: no name, or a name that no metric has.
    """
    given = names_of(names, "metrics")
    if not given:
        raise UsageError(f"no metric is named; give names of {', '.join(METRICS)}")
    unknown = [name for name in given if name not in METRICS]
    if unknown:
        raise UsageError(f"there is no metric {unknown[0]!r}; the metrics are {', '.join(METRICS)}")
    wanted = set(given) | {part for name in given for part in METRICS[name].parts}
    return tuple(metric for metric in _ALL if metric.name in wanted)


def metric_table() -> pd.DataFrame:
    """The table of metrics: name, meaning, unit, better, protocol, reference, source."""
    columns = ["name", "meaning", "unit", "better", "protocol", "reference", "source"]
    return pd.DataFrame([asdict(metric) for metric in _ALL])[columns]
