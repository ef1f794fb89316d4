"""`compare`: is the current table drifted from the reference?

Every column is tested for location, scale, shape and missing values, then the
relations of columns and the outputs of a model. One chance of a false alarm is shared
by all these tests: within a column by Bonferroni, over columns by Holm ("A simple
sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
1979), which holds however they depend on each other. Benjamini and Hochberg's q-values
(JRSS B 1995) rank columns and decide nothing. Drift is a rejected test whose effect is
large enough too; no drift is said only where a shift would have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedge.drift.distances import Effect
from fedge.drift.tables.cells import Blocks
from fedge.drift.tables.comparison import ColumnVerdict, Comparison, State
from fedge.drift.tables.copies import Copy, copies_in, told, with_copies, without
from fedge.drift.tables.encoding import Group
from fedge.drift.tables.explain import Explanation, explain
from fedge.drift.tables.family import Family, Unit
from fedge.drift.tables.findings import TableFinding
from fedge.drift.tables.outcome import Moved
from fedge.drift.tables.outputs import OUTPUT_FITS
from fedge.drift.tables.reading import read
from fedge.drift.tables.relations import unit_of_pairs
from fedge.drift.tables.sizes import effects_of
from fedge.drift.tables.table import Roles, Table
from fedge.drift.tables.trials import (
    ColumnTrials,
    Trial,
    normal_z,
    trials_of_columns,
    trials_of_scores,
)
from fedge.drift.tables.verdicts import (
    BLIND,
    Pair,
    as_copy,
    features_of,
    sentence_for,
    sorted_out,
    untested,
    words_for,
)
from fedge.errors import SettingError, TableError

LEAST_ROWS = 20
"""Tables with fewer rows are not tested: hardly any drift would show, and what shows is chance."""

EXPLAINED_ROWS = 1_000
"""Rows of each table, the latest, from which a cause is told: more make it slow and no clearer."""

EXPLAINED_LABELLED_ROWS = 20_000
"""The same where there are labels: what they tell of a small change needs more rows."""

Say = Callable[[str], None]


def _silent(_: str) -> None:
    return


def compare(
    reference: Any,
    current: Any,
    *,
    label: str | None = None,
    prediction: str | None = None,
    time: str | None = None,
    false_alarms: float = 0.05,
    min_effect: float = 0.1,
    say: Say = _silent,
) -> Comparison:
    """Compare two tables, each with its rows in order of time.

    Args:
        reference, current: what `read` takes.
        label, prediction, time: names of the columns that play these parts.
        false_alarms: the chance of calling tables without drift drifted, over everything that is
            tested.
        min_effect: least shift, in reference standard deviations, that counts.
        say: is told what is being done.

    Raises:
        TableError: a table cannot be read, is empty, or lacks a column that was named.
        SettingError: `false_alarms` is no chance or `min_effect` is negative.
    """
    if not (0 < false_alarms < 1 and 0 <= min_effect < math.inf):
        raise SettingError(f"need 0 < {false_alarms=} < 1 and {min_effect=} >= 0")
    say("reading the reference")
    old = read(reference, label=label, prediction=prediction, time=time)
    say("reading the current table")
    new = read(current, label=label, prediction=prediction, time=time, like=old.table)
    findings = (*_about("reference", old.findings), *_about("current", new.findings))
    return _Work(old.table, new.table, findings, false_alarms, min_effect).run(say)


def _about(table: str, findings: Sequence[TableFinding]) -> list[TableFinding]:
    return [replace(finding, words=f"{table}: {finding.words}") for finding in findings]


@dataclass(frozen=True, slots=True)
class _Work:
    """One comparison under way."""

    reference: Table
    current: Table
    findings: tuple[TableFinding, ...]
    false_alarms: float
    min_effect: float

    def run(self, say: Say) -> Comparison:
        """Test what is common to both tables, and put the findings together; see `compare`."""
        pairs, verdicts = sorted_out(self.reference, self.current)
        least = min(self.reference.rows, self.current.rows)
        if least < LEAST_ROWS:
            why = f"{least} rows are too few to judge: at least {LEAST_ROWS} are needed"
            verdicts |= {pair[0].name: untested(pair, why) for pair in pairs}
            return self._result(verdicts, (), (), (f"cannot certify: {why}",))
        say(f"testing {len(pairs)} columns")
        copies = {copy.name: copy for copy in self._copies(pairs)}
        blocks = Blocks.of(self.reference.rows), Blocks.of(self.current.rows)
        grouped = [(old, new, self._group(old.name)) for old, new in pairs]
        tested = [c for c in trials_of_columns(grouped, blocks) if c.trials]
        columns = [c for c in tested if c.reference.name not in copies]
        say("testing relations and model outputs")
        relations = unit_of_pairs(columns)
        outputs, notes = self._outputs(pairs, tuple(copies.values()), blocks)
        beyond = [*([relations] if relations else []), *(Unit((trial,), 1) for trial in outputs)]
        own = [Unit(column.trials, len(column.trials)) for column in columns]
        family = Family.of([*own, *beyond])
        verdicts |= self._of_columns(tested, columns, copies, family)
        for pair in pairs:
            verdicts.setdefault(pair[0].name, untested(pair, "holds no value to compare"))
        gone = {c.name for c in verdicts.values() if c.state == "drift"}
        moved = self._beyond(beyond, len(columns), gone, family)
        say("looking for the cause")
        return self._result(verdicts, moved, notes, (), tuple(copies.values()))

    def _of_columns(
        self,
        tested: Sequence[ColumnTrials],
        columns: Sequence[ColumnTrials],
        copies: Mapping[str, Copy],
        family: Family,
    ) -> dict[str, ColumnVerdict]:
        """The verdict on each of `tested`, by name; `columns` are those of them that are no copies,
        in the order of the family's first units."""
        found: dict[str, ColumnVerdict] = {}
        place_of = {column.reference.name: place for place, column in enumerate(columns)}
        for column, effects in zip(tested, effects_of(tested), strict=True):
            name = column.reference.name
            copy = copies.get(name)
            place = place_of[copy.original if copy else name]
            found[name] = self._verdict(column, family, place, effects)
        for copy in copies.values():
            # One test for both: what is true of the original is true of the copy.
            found[copy.name] = as_copy(found[copy.name], found[copy.original])
        return found

    def _beyond(
        self, units: Sequence[Unit], first: int, drifted: set[str], family: Family
    ) -> tuple[Moved, ...]:
        """What moved of relations and outputs, strongest first; `first` is their place in `family`.

        That a column moved may change its relations; it is said once.
        """
        found = (
            self._moved(trial, family, place)
            for place, unit in enumerate(units, start=first)
            for trial in unit.trials
            if trial.statistic.group != "structure" or not drifted & {*trial.statistic.columns}
        )
        return tuple(sorted((one for one in found if one), key=lambda one: -one.strength))

    def _copies(self, pairs: Sequence[Pair]) -> list[Copy]:
        """Columns that repeat another one in the reference, and still do in the current table."""
        reference, current = self._common(pairs)
        return [copy for copy in copies_in(reference) if not copy.parted(current).any()]

    def _group(self, name: str) -> Group:
        roles = self.reference.roles
        return (
            "label"
            if name == roles.label
            else ("prediction" if name == roles.prediction else "feature")
        )

    def _outputs(
        self, pairs: Sequence[Pair], copies: Sequence[Copy], blocks: tuple[Blocks, Blocks]
    ) -> tuple[list[Trial], tuple[str, ...]]:
        """Tests of a model's answers and errors."""
        reference, current = (without(table, copies) for table in self._common(pairs))
        roles = reference.roles
        found: list[Trial] = []
        notes = []
        for fit in OUTPUT_FITS:
            try:
                encoder = fit(reference)
            except TableError as error:
                notes.append(str(error))
                continue
            if encoder is None:
                continue
            # What columns say of themselves is tested already.
            kept = [
                index
                for index, statistic in enumerate(encoder.statistics)
                if statistic.group != "label"
                and not (statistic.group == "prediction" and roles.prediction is not None)
            ]
            scores = encoder.reference_scores[:, kept], encoder.scores(current)[:, kept]
            statistics = [encoder.statistics[index] for index in kept]
            found += trials_of_scores(statistics, scores, encoder.unit[kept], blocks)
        return found, tuple(notes)

    def _common(self, pairs: Sequence[Pair]) -> tuple[Table, Table]:
        """Both tables with the columns alone that can be tested."""
        names = {old.name for old, _ in pairs}
        roles = self.reference.roles
        kept = Roles(
            roles.label if roles.label in names else None,
            roles.prediction if roles.prediction in names else None,
        )
        old, new = (tuple(pair[side] for pair in pairs) for side in (0, 1))
        return Table(old, kept), Table(new, kept)

    def _verdict(
        self, column: ColumnTrials, family: Family, unit: int, effects: tuple[Effect, ...]
    ) -> ColumnVerdict:
        number = len(column.trials)
        level = self.false_alarms / (len(family.adjusted) * number)
        detectable = column.detectable(level)
        moved = [m for t in column.trials if (m := self._moved(t, family, unit))]
        strongest = max(moved, key=lambda m: m.strength, default=None)
        values = column.reference.values, column.current.values
        totals = column.cells.totals
        gaps = float(totals[0][-1]) / len(values[0]), float(totals[1][-1]) / len(values[1])
        boolean = column.reference.kind == "boolean" and max(gaps) < 1
        shares = (float(np.nanmean(values[0])), float(np.nanmean(values[1]))) if boolean else None
        best = min(column.trials, key=lambda t: t.p_value)
        state: State = "drift" if strongest else "unknown" if detectable > BLIND else "no drift"
        return ColumnVerdict(
            name=column.reference.name,
            kind=column.reference.kind,
            state=state,
            strongest=strongest or self._as_moved(best, family, unit),
            p_value=family.adjusted[unit],
            rank=family.ranks[unit],
            detectable=detectable,
            effects=effects,
            words=words_for(strongest, effects, gaps, detectable, shares),
        )

    def _moved(self, trial: Trial, family: Family, unit: int) -> Moved | None:
        """The test's evidence if it is drift: significant, and large enough."""
        small = abs(trial.effect) < self.min_effect
        if small or not family.rejected(unit, trial, self.false_alarms):
            return None
        return self._as_moved(trial, family, unit)

    def _as_moved(self, trial: Trial, family: Family, unit: int) -> Moved:
        limit = normal_z(self.false_alarms / family.factors[unit])
        return Moved(
            trial.statistic, trial.z, trial.effect, self.current.rows, abs(trial.z) / limit
        )

    def _result(
        self,
        verdicts: dict[str, ColumnVerdict],
        others: tuple[Moved, ...],
        notes: tuple[str, ...],
        unknown: tuple[str, ...],
        copies: tuple[Copy, ...] = (),
    ) -> Comparison:
        names = dict.fromkeys(c.name for c in (*self.reference.columns, *self.current.columns))
        columns = tuple(verdicts[name] for name in names)
        missing = [c for c in columns if c.state == "unknown"] if not unknown else []
        unknown += tuple(f"column {c.name!r}: {c.words}" for c in missing)
        if not any(c.state in ("drift", "no drift", "unknown") for c in columns):
            unknown += ("no column of the reference can be watched",)
        drift = [c for c in columns if c.state == "drift"]
        explained = self._explained(columns, others, copies)
        return Comparison(
            reference=self.reference,
            current=self.current,
            columns=columns,
            others=others,
            findings=self.findings,
            cause=explained.cause if explained else ("unknown" if drift else None),
            confidence=explained.confidence if explained else 0.0,
            sentence=sentence_for(explained, drift, columns, unknown),
            features=with_copies(features_of(explained, drift), copies),
            unknown=unknown,
            notes=(*notes, *told(copies)),
            false_alarms=self.false_alarms,
            min_effect=self.min_effect,
        )

    def _explained(
        self, columns: Sequence[ColumnVerdict], others: Sequence[Moved], copies: Sequence[Copy]
    ) -> Explanation | None:
        """The cause of statistical drift; None where there is none."""
        again = {copy.name for copy in copies}
        drifted = [c for c in columns if c.state == "drift" and c.name not in again]
        moved = [c.strongest for c in drifted if c.strongest]
        moved = sorted([*moved, *others], key=lambda m: -m.strength)
        if not moved:
            return None
        pairs, _ = sorted_out(self.reference, self.current)
        both = [without(table, copies) for table in self._common(pairs)]
        most = EXPLAINED_LABELLED_ROWS if both[0].roles.label else EXPLAINED_ROWS
        reference, current = (table[max(0, table.rows - most) :] for table in both)
        # Squares of the largest numbers overflow; what is infinite then is no mark of any cause.
        with np.errstate(over="ignore", invalid="ignore"):
            return explain(reference, current, moved)
