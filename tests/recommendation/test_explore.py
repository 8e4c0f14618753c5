"""The page to look at a model: what it holds, and what a browser makes of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trained import N_ITEMS, make_toy, write_data

from recbole_tslrec import Recommender
from recbole_tslrec.recbole_bridge.quick_start import run_experiment
from recbole_tslrec.recommendation.explore import contents
from recbole_tslrec.recommendation.explore.items import Items, _add_inferred
from recbole_tslrec.recommendation.explore.page import write_page
from recbole_tslrec.stages.categories import CategoriesStage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def contents_in(page: str) -> dict:
    return json.loads(Path(page).read_text().split('id="contents">')[1].split("</script>")[0])


def drawn(page: str, address: str, script: str = "") -> str:
    """The page's HTML after its script has run, and one of the test's; no error may be reported."""
    path = Path("drawn.html")
    path.write_text(Path(page).read_text().replace("</body>", f"<script>{script}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [
            *command,
            "--virtual-time-budget=2000",
            "--dump-dom",
            f"{path.resolve().as_uri()}#{address}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and ":CONSOLE" not in done.stderr, done.stderr[-2000:]
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def view(html: str, name: str) -> str:
    """The words of one of the views, which must be the only one that is shown."""
    shown = re.findall(r'<section id="view-(\w+)"(?![^>]*hidden)', html)
    assert shown == [name]
    return words(html.split(f'id="view-{name}"')[1].split('<section id="view-')[0])


def test_two_models_side_by_side(small_data, settings):
    experiment = run_experiment("TSLRec_SASRec", small_data, config_dict=settings)
    plain = settings | {"train_neg_sample_args": None}
    base = run_experiment("SASRec", small_data, config_dict=plain)
    write_page(base.checkpoint, "page.html", beside=experiment.checkpoint)
    found = contents_in("page.html")
    tokens = found["items"]["token"]
    recommender = Recommender(experiment.checkpoint)
    assert tokens == recommender.items and found["items"]["title"] is None
    assert [model["name"] for model in found["models"]] == ["SASRec", "TSLRec_SASRec"]
    ranked = found["models"][1]["metrics"]["seen items ranked"]
    assert ranked["NDCG@10"] == pytest.approx(experiment.test_result["ndcg@10"], abs=1e-4)
    best = recommender.recommend(found["users"]["token"], before="test").groupby("user", sort=False)
    for place, (_, rows) in enumerate(best):
        items = [tokens[row] for row in found["models"][1]["items"][place]]
        assert items == rows["item"].tolist()
        target, rank = found["users"]["target"][place], found["models"][1]["rank"][place]
        if target not in found["users"]["history"][place]:
            assert (rank <= 10) == (tokens[target] in items)
    categories = experiment.trainer.pipeline.stage(CategoriesStage).item_categories()
    assert found["items"]["category"] == categories.tolist()
    gate = recommender._trained.model.mean_gate()[1:]
    assert np.allclose(found["items"]["gate"], gate.detach(), atol=1e-3)
    names = [view["name"] for view in found["views"]]
    assert names == [
        *("Before the language model", "After the language model"),
        *("In SASRec", "In TSLRec_SASRec"),
    ]
    for at, under in ((0, "e_v"), (1, "h_v"), (3, "item_table")):
        near = recommender.similar(tokens[4], under=under)["neighbour"].tolist()
        assert [tokens[row] for row in found["views"][at]["neighbours"][4]] == near
    assert [len(one["rows"]) for one in found["maps"]] == [len(tokens)] * 2
    assert found["notes"] == []

    shutil.rmtree("saved/tslrec")
    write_page(experiment.checkpoint, "page.html")
    found = contents_in("page.html")
    assert [view["name"] for view in found["views"]] == ["In TSLRec_SASRec"]
    assert len(found["notes"]) == 4 and "category" not in found["items"]


def test_two_categories_are_both_shown():
    items = Items()
    shares = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    _add_inferred(items, SimpleNamespace(category_distributions=lambda: shares))
    assert items.columns["inferred"] == [[[1, 0.75], [0, 0.25]], [[0, 1.0], [1, 0.0]]]


def test_a_control_without_stages_has_its_gate_and_its_view(language_model_folder):
    keys = {"enhancement": "random", "enhanced_width": 5, "llm": language_model_folder()}
    write_page(make_toy("TSLRec_SASRec", **keys).checkpoint, "page.html")
    found = contents_in("page.html")
    names = [view["name"] for view in found["views"]]
    assert names == ["Control random", "In TSLRec_SASRec"] and found["notes"] == []
    assert len(found["items"]["gate"]) == N_ITEMS


def test_two_models_may_call_their_fields_otherwise():
    def of_fields(user: str, item: str, last: str) -> SimpleNamespace:
        tokens = {user: np.array(["[PAD]", "u1"]), item: np.array(["[PAD]", "i1", last])}
        data = {"uid_field": user, "iid_field": item, "item_num": 3, "field2id_token": tokens}
        dataset = SimpleNamespace(dataset_name="toy", **data)
        return SimpleNamespace(
            config={"benchmark_filename": None}, checkpoint="a.pth", dataset=dataset
        )

    first = of_fields("user_id", "item_id", "i2")
    contents.check_pair([first, of_fields("u", "i", "i2")])
    with pytest.raises(ValueError, match="^beside: .* has other users or items"):
        contents.check_pair([first, of_fields("u", "i", "i3")])


def test_a_sample_of_the_users():
    toy = make_toy("SASRec")
    write_page(toy.checkpoint, "page.html", n_users=4)
    users = contents_in("page.html")["users"]
    assert len(users["token"]) == 4 and "4 of 12 test users" in Path("page.html").read_text()
    for token, history, target in zip(
        users["token"], users["history"], users["target"], strict=True
    ):
        items = contents_in("page.html")["items"]["token"]
        assert [items[row] for row in [*history, target]] == toy.histories[token]


@in_a_browser
def test_a_browser_draws_every_view():
    toy = make_toy("CI_SASRec", n_categories=3)
    write_page(toy.checkpoint, "page.html")
    found = contents_in("page.html")
    titles = Recommender(toy.checkpoint).titles
    best = Recommender(toy.checkpoint).recommend(["u3"], before="test")
    place = found["users"]["token"].index("u3")
    told = view(drawn("page.html", "user/u3"), "user")
    assert f"place {found['models'][0]['rank'][place]} of the unseen items" in told
    at = [told.index(f"{row.rank} {row.title} ") for row in best.itertuples()]
    assert at == sorted(at)
    assert titles[toy.histories["u3"][0]] in told

    told = view(drawn("page.html", "item/i7"), "item")
    near = Recommender(toy.checkpoint).similar("i7")
    assert titles["i7"] in told and all(title in told for title in near["title"])
    assert "Not shown: categories of CI_SASRec" in view(drawn("page.html", "models"), "models")
    assert f"{N_ITEMS} of {N_ITEMS} items" in view(drawn("page.html", "map"), "map")


@in_a_browser
def test_a_browser_finds_users_and_items():
    write_page(make_toy("SASRec").checkpoint, "page.html", beside=make_toy("GRU4Rec").checkpoint)
    told = drawn(
        "page.html",
        "item",
        "const say = (id, value) => { const input = document.getElementById(id);"
        "input.value = value; input.dispatchEvent(new Event('input')); };"
        "say('find-item', 'THE small 3'); say('find-user', 'u1');",
    )
    assert "2 of 20 items" in told  # The small red 3, The small ... 13
    assert "2 of 12 users" in told  # u1, u10
    assert "among the 10 of GRU4Rec alone" in told


@in_a_browser
def test_titles_are_text_whatever_they_hold():
    toy = make_toy("SASRec")
    path = Path("data/toy/toy.item")
    evil = "</script><img src=x onerror=console.log(1)> & <b>i2</b>"
    path.write_text(path.read_text().replace("The blue blue 2\t", f"{evil}\t"))
    write_page(toy.checkpoint, "page.html")
    told = drawn("page.html", "item/i2")
    assert "<img" not in told and "&lt;b&gt;i2&lt;/b&gt;" in told


def test_what_cannot_be_on_a_page_is_refused(monkeypatch):
    toy = make_toy("SASRec")
    with pytest.raises(ValueError, match=r"^n_users: \[0\]"):
        write_page(toy.checkpoint, "page.html", n_users=0)
    other = make_toy("GRU4Rec", user_inter_num_interval="[3,inf)")
    with pytest.raises(ValueError, match=r"^beside: .* has other users or items"):
        write_page(toy.checkpoint, "page.html", beside=other.checkpoint)
    other = make_toy(
        "GRU4Rec", eval_args={"split": {"RS": [6, 2, 2]}, "order": "TO", "mode": "full"}
    )
    with pytest.raises(ValueError, match=r"^beside: .* was tested on other interactions"):
        write_page(toy.checkpoint, "page.html", beside=other.checkpoint)
    monkeypatch.setattr(
        contents, "data_notes", lambda *_: {"training": "now others", "validation": "as before"}
    )
    allowed = make_toy(
        "SASRec", allow_new_data=True
    )  # its training was; who looks at it is asked anew
    for one in (toy, allowed):
        with pytest.raises(ValueError, match="was trained with other training interactions"):
            write_page(one.checkpoint, "page.html")
    with pytest.raises(FileNotFoundError, match="^output: there is no folder"):
        write_page(toy.checkpoint, "nowhere/page.html")
    write_page(toy.checkpoint, "new.html", allow_new_data=True)
    monkeypatch.setattr(contents, "MOST_ITEMS", N_ITEMS - 1)
    with pytest.raises(ValueError, match="^explore: .* has 20 items, and a page holds at most 19"):
        write_page(toy.checkpoint, "page.html")
    assert write_data() and not Path("page.html").exists()
