"""The simulated world: its arithmetic, its knobs, and what can be known of its clicks."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from feature_store.errors import ConfigError
from feature_store.recipe import load_recipe
from feature_store.simulator import walk, world
from feature_store.simulator.catalog import between, catalog_of, turned, unit
from feature_store.simulator.intent import intents
from feature_store.simulator.noise import Noise, draw
from feature_store.simulator.settings import SimulatorSettings, settings_of
from feature_store.simulator.slates import Slates, slates_of
from feature_store.simulator.walk import Walk, walk_of

DAY = 20_514
USERS = np.arange(512)


@cache
def one_day(day: int = DAY, **changes: float) -> tuple[Walk, Slates]:
    settings = SimulatorSettings(**changes)  # type: ignore[arg-type]
    walk = walk_of(settings, USERS, day)
    return walk, slates_of(settings, walk)


@cache
def many_slates() -> list[list[Slates]]:
    """Slates of three days of 3,072 users, by day."""
    settings = SimulatorSettings()
    blocks = [np.arange(n, n + 512) for n in range(0, 3_072, 512)]
    return [[slates_of(settings, walk_of(settings, users, DAY + n)) for users in blocks] for n in range(3)]


def shown(days: list[list[Slates]]) -> dict[str, np.ndarray]:
    """Viewed items of some days: item, position, clicked, click_probability."""
    slates = [s for day in days for s in day]
    viewed = np.concatenate([s.viewed for s in slates])
    position = np.broadcast_to(np.arange(viewed.shape[1]), viewed.shape)
    parts = {n: np.concatenate([getattr(s, n) for s in slates]) for n in ("item", "clicked", "click_probability")}
    return {n: a[viewed] for n, a in {**parts, "position": position}.items()}


def test_noise_is_a_function_of_seed_stream_and_keys_and_is_uniform() -> None:
    keys = np.arange(20_000)
    u = Noise(1).uniform("a", keys)
    assert np.array_equal(u[5:9], Noise(1).uniform("a", keys[5:9]))
    assert abs(u.mean() - 0.5) < 0.01 and abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.03
    for other in (Noise(2).uniform("a", keys), Noise(1).uniform("b", keys), Noise(1).uniform("a", keys, 0)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.03
    assert abs(Noise(1).normal("n", keys).std() - 1) < 0.02


def test_draw_follows_the_weights() -> None:
    picked = draw(np.broadcast_to(np.cumsum([1.0, 0.0, 3.0]), (20_000, 3)), Noise(1).uniform("d", np.arange(20_000)))
    assert set(picked) == {0, 2} and abs((picked == 2).mean() - 0.75) < 0.02


@limits(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), angle=st.floats(-6, 6), share=st.floats(0, 1))
def test_turning_moves_by_its_angle_and_between_lies_on_the_great_circle(seed: int, angle: float, share: float) -> None:
    x, y = unit(np.random.default_rng(seed).normal(size=(2, 3, 8)))
    moved = turned(x, np.full(3, angle))
    np.testing.assert_allclose((moved * x).sum(-1), np.cos(angle), atol=1e-9)
    z = between(x, y, np.full(3, share))
    whole = np.arccos((x * y).sum(-1))
    np.testing.assert_allclose(np.arccos(np.clip((x * z).sum(-1), -1, 1)), share * whole, atol=1e-6)


def test_fewer_than_twenty_thousand_items_are_refused() -> None:
    with pytest.raises(ValueError, match="20000"):
        SimulatorSettings(items=1_600)


def test_an_unknown_setting_is_named() -> None:
    recipe = load_recipe("conf/simulated.yaml").model_copy(update={"simulator": {"user": 3}})
    with pytest.raises(ConfigError, match=r"recipe simulated: simulator\.user: Extra inputs"):
        settings_of(recipe)


def test_a_real_recipe_has_nothing_to_simulate() -> None:
    recipe = load_recipe("conf/simulated.yaml").model_copy(update={"simulator": None})
    with pytest.raises(ConfigError, match="no `simulator` section"):
        settings_of(recipe)


def test_no_drift_means_one_intent_for_ever() -> None:
    still = SimulatorSettings(intent_drift=0)
    first = intents(still, USERS, np.full((512, 1), 20_000.3))
    for later in (20_000.9, 20_001.5, 20_009.0):
        assert np.array_equal(first, intents(still, USERS, np.full((512, 1), later)))


def test_drift_grows_with_its_strength_and_is_smooth_between_jumps() -> None:
    time = 20_000 + np.linspace(0, 0.99, 200)[None, :].repeat(512, 0)
    gone = []
    for strength in (0.0, 0.3, 1.0):
        x = intents(SimulatorSettings(intent_drift=strength), USERS, time)
        angle = np.arccos(np.clip((x[:, 1:] * x[:, :-1]).sum(-1), -1, 1))
        gone.append(np.median(angle.sum(1)))
        assert np.quantile(angle, 0.99) < np.radians(3 * 80 / 200)
    assert gone[0] < 1e-3 and np.radians(15) < gone[1] < np.radians(40) and np.radians(60) < gone[2] < np.radians(110)


def test_the_walk_of_a_user_does_not_depend_on_who_else_is_computed() -> None:
    whole, _ = one_day()
    alone = walk_of(SimulatorSettings(), USERS[100:140], DAY)
    for name in ("real", "time", "scene", "action", "item"):
        assert np.array_equal(getattr(whole, name)[100:140], getattr(alone, name)), name


def test_no_scene_causality_leaves_the_intent_alone_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    drifting: list[np.ndarray] = []
    monkeypatch.setattr(walk, "intents", lambda *given: drifting.append(intents(*given)) or drifting[-1])
    alone = walk_of(SimulatorSettings(scene_causality=0.0), USERS, DAY)
    assert len(drifting) == 1 and np.array_equal(alone.intent, drifting[0])  # the drift that no scene knows of
    free, _ = one_day(scene_causality=0.0)
    moved, _ = one_day(scene_causality=0.5)
    causes = np.isin(free.scene, (world.SEARCH, world.CAMPAIGN))
    before = np.cumsum(causes, axis=1) - causes == 0
    assert np.array_equal(free.intent[before], moved.intent[before]) and np.array_equal(free.scene[before], moved.scene[before])
    assert (np.abs(free.intent - moved.intent).max(-1)[~before] > 1e-3).mean() > 0.9


def test_a_scene_event_causes_later_clicks_only_with_scene_causality() -> None:
    def rate(strength: float) -> float:
        walk, slates = one_day(scene_causality=strength, irrelevant_triggers=1.0)
        row = slates.user - USERS[0]
        visited = np.array([(walk.scene[r, :s] == world.CAMPAIGN).any() and walk.session[s] == 0
                            for r, s in zip(row, slates.step, strict=True)])
        theme = np.array([next((walk.category[r, k] for k in range(s) if walk.scene[r, k] == world.CAMPAIGN), -1)
                          for r, s in zip(row, slates.step, strict=True)])
        same = (slates.item % 160 == theme[:, None]) & visited[:, None] & slates.viewed
        return float(slates.click_probability[same].mean() / slates.click_probability[visited].mean())
    assert rate(0.0) < 1.5 < 2.0 < rate(0.8)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_triggers_are_irrelevant_in_the_chosen_share(share: float) -> None:
    _, slates = one_day(irrelevant_triggers=share)
    found = float((~slates.relevant).mean())
    assert found == share if share in (0, 1) else abs(found - share) < 0.04


def test_a_relevant_trigger_is_near_the_intent() -> None:
    settings = SimulatorSettings()
    _, slates = one_day()
    near = (catalog_of(settings).vectors[slates.trigger] * slates.intent).sum(-1)
    assert near[slates.relevant].mean() > 0.5 and abs(near[~slates.relevant].mean()) < 0.1


def test_a_page_shows_no_item_twice_and_only_viewed_items_are_clicked() -> None:
    _, slates = one_day()
    ordered = np.sort(slates.item, axis=1)
    assert (ordered[:, 1:] != ordered[:, :-1]).all()
    assert not (slates.clicked & ~slates.viewed).any() and not (slates.ordered & ~slates.clicked).any()


def test_every_scenario_occurs() -> None:
    _, slates = one_day()
    assert set(slates.scenario) == set(range(len(world.SCENARIOS))) and len(world.SCENARIOS) >= 6


def test_clicks_follow_the_stated_probabilities_and_fall_with_position() -> None:
    rows = shown(many_slates())
    for low, high in ((0, 0.03), (0.03, 0.1), (0.1, 0.3), (0.3, 1)):
        part = (rows["click_probability"] >= low) & (rows["click_probability"] < high)
        assert rows["clicked"][part].mean() == pytest.approx(rows["click_probability"][part].mean(), rel=0.05)
    rates = [rows["clicked"][(rows["position"] >= a) & (rows["position"] < a + 5)].mean() for a in (0, 5, 10, 15)]
    assert rates == sorted(rates, reverse=True) and rates[0] > 1.5 * rates[3]


def test_no_position_bias_means_equal_odds_at_every_position() -> None:
    rows = shown([[one_day(position_bias=0.0)[1]]])
    rates = [rows["click_probability"][(rows["position"] // 5) == n].mean() for n in range(4)]
    assert max(rates) < 1.15 * min(rates)


def test_the_best_possible_auc_is_at_most_eighty() -> None:
    rows = shown(many_slates())
    assert 0.74 < roc_auc_score(rows["clicked"], rows["click_probability"]) <= 0.80


def test_popularity_closes_at_most_a_fifth_of_the_gap() -> None:
    days = many_slates()
    train, test = shown(days[:2]), shown(days[2:])
    base = train["clicked"].mean()
    truth = log_loss(test["clicked"], test["click_probability"])
    constant = log_loss(test["clicked"], np.full(len(test["clicked"]), base))
    shows, clicks = (np.bincount(train["item"], w, minlength=20_480) for w in (None, train["clicked"]))
    for prior in (10, 100, 1_000):
        rate = (clicks + prior * base) / (shows + prior)
        assert (constant - log_loss(test["clicked"], rate[test["item"]])) / (constant - truth) <= 0.2


def test_more_users_give_more_events_in_proportion() -> None:
    settings = SimulatorSettings()
    counts = [sum(int(walk_of(settings, np.arange(n, n + 500), DAY).real.sum()) for n in range(0, users, 500))
              for users in (1_000, 3_000)]
    assert counts[1] == pytest.approx(3 * counts[0], rel=0.05)
