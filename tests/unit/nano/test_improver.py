"""Every change goes its way once, on record; what is worse does not stay."""

from __future__ import annotations

import random
from collections import Counter

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from swarm.nano.improver import (
    NEXT,
    Change,
    Entry,
    Improver,
    MeanOverTime,
    Promote,
    Restore,
    RunTest,
    Stage,
    StartCanary,
    Terms,
)

SECOND = 1_000_000_000


def wish(value=2, subject="rate", reason="faster", author="a test"):
    return Change(subject, value, reason, author)


def at_canary(terms=None, value=2):
    improver = Improver({"rate": 1, "depth": 10}, terms)
    improver.propose(wish(value), 0)
    improver.tested(1, True, 1)
    return improver


def entries(effects):
    return [effect.stage for effect in effects if isinstance(effect, Entry)]


def others(effects):
    return [effect for effect in effects if not isinstance(effect, Entry)]


def test_a_better_change_is_promoted_and_all_of_it_is_on_record():
    improver = Improver({"rate": 1})
    assert others(improver.propose(wish(), 5)) == [RunTest(1, wish())]
    assert others(improver.tested(1, True, 6)) == [StartCanary(1, wish(), 0.1)]
    assert improver.in_force == {"rate": 1}
    noise = random.Random(1)
    effects = []
    for now in range(7, 2000):
        effects = improver.observe(1, now, canary=[noise.gauss(1.0, 1)], control=[noise.gauss(0.0, 1)])
        if effects:
            break
    assert others(effects) == [Promote(1, wish())]
    assert improver.in_force == {"rate": 2}
    assert [entry.stage for entry in improver.record] == [Stage.TESTING, Stage.CANARY, Stage.PROMOTED]
    last = improver.record[-1]
    assert last.now_ns == now and last.reason == "better" and last.facts["low"] > 0
    assert last.facts["pairs"] == now - 6 >= 30
    assert improver.under_way == {} and improver.next_ns() is None


def test_a_worse_change_is_rolled_back_and_not_tried_again_for_a_while():
    improver = at_canary(Terms(cooldown_ns=SECOND))
    noise = random.Random(2)
    effects = []
    for now in range(2, 2000):
        effects = improver.observe(1, now, canary=[noise.gauss(-1, 1)], control=[noise.gauss(0, 1)])
        if effects:
            break
    assert others(effects) == [Restore(1, wish(), 1)]
    assert entries(effects) == [Stage.ROLLED_BACK]
    assert improver.in_force["rate"] == 1
    again = improver.propose(wish(), now + SECOND - 1)
    assert entries(again) == [Stage.REJECTED] and "short while ago" in again[0].reason
    assert others(improver.propose(wish(3), now + 1)) == [RunTest(3, wish(3))]
    improver.tested(3, False, now + 2)
    improver.tick(now + SECOND)
    assert others(improver.propose(wish(), now + SECOND)) == [RunTest(4, wish())]


def test_where_lower_is_better():
    improver = at_canary(Terms(higher_is_better=False))
    effects = improver.observe(1, 2, canary=[5.0] * 30, control=[6.0] * 30)
    assert others(effects) == [Promote(1, wish())]


def test_no_difference_is_not_better_but_within_a_margin():
    improver = at_canary()
    assert improver.observe(1, 2, canary=[1.0] * 200, control=[1.0] * 200) == []
    assert entries(improver.tick(10**18)) == [Stage.ROLLED_BACK]
    tolerant = at_canary(Terms(margin=0.5))
    assert others(tolerant.observe(1, 2, canary=[0.9] * 30, control=[1.0] * 30)) == [Promote(1, wish())]
    assert tolerant.record[-1].reason == "not worse"


def test_what_moves_both_parts_cancels():
    """A drift a hundred times the effect, in both arms: pairs see the effect."""
    improver = at_canary()
    noise = random.Random(3)
    for now in range(2, 3000):
        drift = 100 * noise.random() + now
        effects = improver.observe(1, now, canary=[drift + 1 + noise.gauss(0, 1)], control=[drift + noise.gauss(0, 1)])
        if effects:
            break
    assert others(effects) == [Promote(1, wish())]


def test_scores_may_come_in_parts_and_wait_for_each_other():
    improver = at_canary()
    assert improver.observe(1, 2, canary=[2.0] * 40) == []
    assert improver.observe(1, 3, control=[1.0] * 29) == []
    assert others(improver.observe(1, 4, control=[1.0])) == [Promote(1, wish())]


def test_scores_without_counterpart_are_bounded_and_counted():
    improver = at_canary()
    improver.observe(1, 2, canary=[2.0] * 10_000)
    improver.observe(1, 3, control=[1.0] * 30)
    assert improver.record[-1].facts["lost"] == 10_000 - 4096


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_none_ends_the_canary(score):
    improver = at_canary()
    assert others(improver.observe(1, 2, canary=[score])) == [Restore(1, wish(), 1)]
    other = at_canary()
    assert other.observe(1, 2, control=[score]) == []
    assert other.under_way == {1: Stage.CANARY}


def test_harm_needs_no_statistics():
    improver = at_canary()
    effects = improver.harmed(1, 3, "an agent died")
    assert others(effects) == [Restore(1, wish(), 1)] and effects[0].reason == "an agent died"


def test_a_promotion_can_be_undone():
    improver = at_canary()
    improver.observe(1, 2, canary=[2.0] * 30, control=[1.0] * 30)
    improver.propose(wish(3), 3)
    improver.tested(2, True, 4)
    effects = improver.revert("rate", 5, "it was not")
    assert others(effects) == [Restore(2, wish(3), 2), Restore(1, wish(), 1)]
    assert improver.in_force["rate"] == 1
    assert improver.revert("rate", 6, "again") == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (wish(subject="colour"), "there is no 'colour'"),
        (wish(1), "it is in force"),
        (wish(5), "change 1 of it is under way"),
    ],
)
def test_refusals_say_why(change, why):
    improver = at_canary()
    (entry,) = improver.propose(change, 9)
    assert entry.stage is Stage.REJECTED and entry.reason == why


def test_silence_promotes_nothing():
    improver = Improver({"rate": 1}, Terms(test_timeout_ns=10, canary_timeout_ns=20))
    improver.propose(wish(), 0)
    assert improver.next_ns() == 10
    assert improver.tick(9) == []
    assert entries(improver.tick(10)) == [Stage.REJECTED]
    assert improver.tested(1, True, 11) == []
    improver = at_canary(Terms(test_timeout_ns=10, canary_timeout_ns=20))
    assert improver.tick(20) == []
    assert others(improver.tick(21)) == [Restore(1, wish(), 1)]
    assert improver.observe(1, 22, canary=[1.0], control=[1.0]) == []


def test_looking_after_every_pair_does_not_raise_the_error_rate():
    """Of 400 changes that do nothing, looked at after each of 400 pairs, at most 5 % are promoted or called worse."""
    noise = random.Random(7)
    ends = Counter()
    for _ in range(400):
        improver = at_canary()
        for now in range(2, 402):
            effects = improver.observe(1, now, canary=[noise.gauss(0, 1)], control=[noise.gauss(0, 1)])
            if effects:
                ends[entries(effects)[0]] += 1
                break
    print(f"of 400 that do nothing: {ends}")
    assert sum(ends.values()) <= 0.05 * 400, ends


def test_the_interval_holds_the_mean_all_along():
    noise = random.Random(8)
    left = 0
    for _ in range(300):
        mean = MeanOverTime(0.1)
        for n in range(1, 400):
            mean.add(
                3.0 + noise.expovariate(1.0) - noise.expovariate(1.0)
            )  # heavier tails than a normal distribution's
            low, high = mean.bounds()
            if n >= 30 and not low <= 3.0 <= high:
                left += 1
                break
    assert left <= 30
    assert 0 < high - low < 0.8


@pytest.mark.parametrize(
    ("terms", "what"),
    [
        ({"share": 0.0}, "share"),
        ({"share": 1.0}, "share"),
        ({"error": 0}, "error"),
        ({"margin": -1}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"pairs_min": 1}, "pairs_min"),
        ({"test_timeout_ns": 0}, "timeout"),
        ({"cooldown_ns": -1}, "cool-down"),
    ],
)
def test_terms_that_make_no_sense(terms, what):
    with pytest.raises(ValueError, match=what):
        Terms(**terms)


SUBJECTS = st.sampled_from(["rate", "depth"])
SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=12)


class AnyOrder(RuleBasedStateMachine):
    """Calls in any order, for numbers that are there and that are not: what is in force is what the effects say."""

    def __init__(self):
        super().__init__()
        self.now = 0
        self.improver = Improver(
            {"rate": 0, "depth": 0}, Terms(pairs_min=2, test_timeout_ns=50, canary_timeout_ns=50, cooldown_ns=30)
        )
        self.everywhere = {"rate": 0, "depth": 0}
        self.canaries = {}
        self.stages = {}
        self.entries = []

    def take(self, effects):
        for effect in effects:
            if isinstance(effect, Entry):
                assert effect.stage in NEXT[self.stages.get(effect.number)]
                self.stages[effect.number] = effect.stage
                self.entries.append(effect)
            elif isinstance(effect, StartCanary):
                assert effect.change.subject not in self.canaries
                self.canaries[effect.change.subject] = effect.number
            elif isinstance(effect, Promote):
                assert self.canaries.pop(effect.change.subject) == effect.number
                self.everywhere[effect.change.subject] = effect.change.value
            elif isinstance(effect, Restore):
                if self.canaries.get(effect.change.subject) == effect.number:
                    del self.canaries[effect.change.subject]
                    assert effect.before == self.everywhere[effect.change.subject]
                else:
                    self.everywhere[effect.change.subject] = effect.before

    def someone(self, pick):
        return 1 + pick % (len(self.stages) + 1)

    @rule(subject=SUBJECTS, value=st.integers(0, 4))
    def propose(self, subject, value):
        self.take(self.improver.propose(wish(value, subject), self.now))

    @rule(pick=st.integers(0, 50), passed=st.booleans())
    def tested(self, pick, passed):
        self.take(self.improver.tested(self.someone(pick), passed, self.now))

    @rule(pick=st.integers(0, 50), canary=SCORES, control=SCORES)
    def observe(self, pick, canary, control):
        self.take(self.improver.observe(self.someone(pick), self.now, canary=canary, control=control))

    @precondition(lambda self: self.canaries)
    @rule(better=st.booleans())
    def decide(self, better):
        number = min(self.canaries.values())
        self.take(self.improver.observe(number, self.now, canary=[9.0 * better] * 50, control=[4.0] * 50))

    @rule(pick=st.integers(0, 50))
    def harmed(self, pick):
        self.take(self.improver.harmed(self.someone(pick), self.now, "harm"))

    @rule(subject=SUBJECTS)
    def revert(self, subject):
        self.take(self.improver.revert(subject, self.now, "undone"))

    @rule(later=st.integers(0, 40))
    def tick(self, later):
        self.now += later
        self.take(self.improver.tick(self.now))

    @rule()
    def save_and_restore(self):
        saved = msgpack.unpackb(msgpack.packb(self.improver.save()))
        again = Improver.restore(saved, self.improver.terms)
        again.record = self.improver.record
        assert again.save() == self.improver.save()
        self.improver = again

    @invariant()
    def what_is_in_force_is_what_the_effects_say(self):
        assert self.improver.in_force == self.everywhere
        assert list(self.improver.record) == self.entries
        stages = self.improver.under_way
        assert {n for n, stage in stages.items() if stage is Stage.CANARY} == set(self.canaries.values())
        assert stages == {n: s for n, s in self.stages.items() if s in (Stage.TESTING, Stage.CANARY)}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
