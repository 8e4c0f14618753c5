import math
import shutil
from pathlib import Path

import pytest
import torch
from tiny_fine_tuning import CPU, K, model_and_prompt, settings_of, users_of_one_taste
from transformers.trainer_utils import get_last_checkpoint

from recbole_tslrec.language_model import training
from recbole_tslrec.language_model.checkpoints import remove_broken_checkpoints, state_of
from recbole_tslrec.language_model.prompt import of_histories
from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import fine_tune, split_users


def test_the_loss_is_equation_3(language_model_folder):
    model, prompt = model_and_prompt(language_model_folder())
    histories, preferences = users_of_one_taste(3)
    batch = prompt.batch(of_histories([histories[0], histories[1], histories[2]]))
    targets = torch.from_numpy(preferences.toarray())
    output = model.eval()(**batch, preference=targets)
    hidden = model.reader(**batch).tolist()
    weight, bias = model.preference_head.weight.tolist(), model.preference_head.bias.tolist()
    for user in range(3):
        logits = [
            sum(w * h for w, h in zip(weight[i], hidden[user], strict=True)) + bias[i]
            for i in range(K)
        ]
        scale = sum(math.exp(logit) for logit in logits)
        predicted = [math.exp(logit) / scale for logit in logits]
        target = targets[user].tolist()
        error = sum((g - p) ** 2 for g, p in zip(target, predicted, strict=True))
        assert output["error"][user].item() == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_it_learns_beyond_the_constant_predictor(kind, tmp_path, language_model_folder):
    model, prompt = model_and_prompt(language_model_folder(kind))
    histories, preferences = users_of_one_taste()
    report = fine_tune(model, prompt, histories, preferences, settings_of(), tmp_path, CPU, False)
    assert (report.n_train_users, report.n_valid_users) == (48, 12)
    assert min(epoch.metrics["error"] for epoch in report.epochs) < 0.7 * report.constant_loss
    assert report.epochs[-1].loss < report.epochs[0].loss


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_it_learns_quantised(quantization, tmp_path, language_model_folder):
    model, prompt = model_and_prompt(language_model_folder(), quantization)
    histories, preferences = users_of_one_taste()
    report = fine_tune(model, prompt, histories, preferences, settings_of(), tmp_path, CPU, False)
    assert report.epochs[-1].metrics["error"] < report.constant_loss


def test_the_best_epoch_stays_and_comes_back_from_its_file(tmp_path, language_model_folder):
    model, prompt = model_and_prompt(language_model_folder())
    histories, preferences = users_of_one_taste()
    settings = settings_of(learning_rate=0.05, stopping_step=2)
    report = fine_tune(model, prompt, histories, preferences, settings, tmp_path / "c", CPU, False)
    _, watched = split_users(len(histories), settings.valid_ratio, settings.seed)
    batch = prompt.batch(of_histories([histories[user] for user in watched]))
    batch["preference"] = torch.from_numpy(preferences[watched].toarray())
    best = min(epoch.metrics["error"] for epoch in report.epochs)
    with torch.no_grad():
        assert model.eval()(**batch)["error"].mean().item() == pytest.approx(best, rel=0.05)
    model.save(tmp_path / "saved")
    other, _ = model_and_prompt(language_model_folder(), seed=5)
    other.load(tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(**batch)["error"], model.eval()(**batch)["error"])
    names = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert names <= {".safetensors", ".json", ".md"}


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path, language_model_folder):
    histories, preferences = users_of_one_taste()

    def run(folder, fail_in_epoch=None):
        torch.manual_seed(0)
        model, prompt = model_and_prompt(language_model_folder())
        forward, steps = model.forward, iter(range(10**9))

        def forward_until(*args, **kwargs):
            if fail_in_epoch is not None and next(steps) > fail_in_epoch * 8:
                raise KeyboardInterrupt
            return forward(*args, **kwargs)

        model.forward = forward_until
        # With this learning rate it stops early, by a patience that was running at the kill.
        settings = settings_of(epochs=8, learning_rate=0.05, stopping_step=2)
        report = fine_tune(model, prompt, histories, preferences, settings, folder, CPU, False)
        return report, model.preference_head.weight.detach()

    whole, weight = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", fail_in_epoch=2)
    assert list((tmp_path / "broken").glob("checkpoint-*"))
    cut_short = tmp_path / "broken" / "checkpoint-999"  # a kill while the last one was written
    cut_short.mkdir()
    (cut_short / "optimizer.pt").write_bytes(b"half")
    allowed = torch.serialization.get_safe_globals()
    resumed, resumed_weight = run(tmp_path / "broken")
    torch.testing.assert_close(resumed_weight, weight, rtol=1e-4, atol=1e-5)
    assert len(resumed.epochs) == len(whole.epochs)
    assert not set(allowed) - set(torch.serialization.get_safe_globals())
    assert resumed.epochs[-1].loss == pytest.approx(whole.epochs[-1].loss, rel=1e-3)


def test_a_damaged_checkpoint_is_named_and_not_gone_on_from(
    tmp_path, language_model_folder, caplog
):
    """Every file × cut short, a bit flipped, the earlier checkpoint's, missing."""
    model, prompt = model_and_prompt(language_model_folder())
    histories, preferences = users_of_one_taste(16)
    made = tmp_path / "made"
    fine_tune(model, prompt, histories, preferences, settings_of(epochs=2), made, CPU, False)
    first, last = sorted(made.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    files = [path.relative_to(last) for path in last.rglob("*") if path.is_file()]
    assert {"optimizer.pt", "trainer_state.json", "seal.json"} < {file.name for file in files}
    for file in files:
        whole = (last / file).read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for damaged in (whole[:middle], flipped, (first / file).read_bytes(), None):
            if damaged == whole:  # the earlier checkpoint's is the same
                continue
            copy = tmp_path / "copy"
            shutil.copytree(made, copy)
            if damaged is None:
                (copy / last.name / file).unlink()
            else:
                (copy / last.name / file).write_bytes(damaged)
            caplog.clear()
            remove_broken_checkpoints(copy)
            assert get_last_checkpoint(copy) == str(copy / first.name), file
            assert str(copy / last.name) in caplog.text and not (copy / last.name).exists()
            if file.name != "seal.json":
                assert str(file) in caplog.text
            shutil.rmtree(copy)
    remove_broken_checkpoints(made)
    assert get_last_checkpoint(made) == str(last)


def test_a_damaged_best_epoch_is_not_used(tmp_path, language_model_folder, caplog):
    model, prompt = model_and_prompt(language_model_folder())
    settings = settings_of(epochs=8, learning_rate=0.05, stopping_step=2)
    data = users_of_one_taste()
    fine_tune(model, prompt, *data, settings, tmp_path, CPU, False)
    state = state_of(Path(get_last_checkpoint(tmp_path)))
    best = Path(state.best_model_checkpoint)
    assert str(best) != get_last_checkpoint(tmp_path)
    weights = bytearray((best / "projections.safetensors").read_bytes())
    weights[-1] ^= 1
    (best / "projections.safetensors").write_bytes(weights)
    remove_broken_checkpoints(tmp_path)
    assert get_last_checkpoint(tmp_path) is None and f"best epoch, [{best}]" in caplog.text


def test_a_run_that_had_stopped_early_is_not_trained_on(
    tmp_path, language_model_folder, monkeypatch
):
    def run(folder):
        torch.manual_seed(0)
        model, prompt = model_and_prompt(language_model_folder())
        settings = settings_of(epochs=40, learning_rate=0.05, stopping_step=1)
        report = fine_tune(model, prompt, *users_of_one_taste(), settings, folder, CPU, False)
        return report, model.preference_head.weight.detach()

    def killed(self):
        raise KeyboardInterrupt

    whole, weight = run(tmp_path / "whole")
    assert len(whole.epochs) < 40
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training._TaskTrainer, "_load_best_model", killed)
        run(tmp_path / "killed")
    (tmp_path / "killed").rename(tmp_path / "moved")  # where its state does not look for the best
    resumed, resumed_weight = run(tmp_path / "moved")
    assert torch.equal(resumed_weight, weight)
    assert resumed.epochs == whole.epochs


def test_the_same_seed_gives_the_same_numbers(tmp_path, language_model_folder):
    results = []
    for run in range(2):
        torch.manual_seed(run)  # what came before must not matter
        model, prompt = model_and_prompt(language_model_folder())
        histories, preferences = users_of_one_taste()
        fine_tune(
            model,
            prompt,
            histories,
            preferences,
            settings_of(epochs=1),
            tmp_path / str(run),
            CPU,
            False,
        )
        results.append(model.preference_head.weight.detach().clone())
    assert torch.equal(*results)


def test_no_user_is_both_learned_from_and_watched_and_one_user_is_learned_from():
    for n_users, ratio, n_watched in ((100, 0.05, 5), (3, 0.05, 1), (1, 0.5, 0), (10, 0, 0)):
        learned, watched = split_users(n_users, ratio, 0)
        assert len(watched) == n_watched
        assert sorted([*learned, *watched]) == list(range(n_users))
    for n_users, ratio, n_watched in ((100, 0.05, 5), (25, 0.05, 2), (2, 0.5, 1), (25, 0, 0)):
        assert len(split_users(n_users, ratio, 0, least=2)[1]) == n_watched


def test_infinite_losses_stop_with_advice(tmp_path, language_model_folder):
    model, prompt = model_and_prompt(language_model_folder())
    with torch.no_grad():
        model.preference_head.weight[0, 0] = float("nan")
    histories, preferences = users_of_one_taste(16)
    with pytest.raises(ValueError, match="loss is nan.*sft_learning_rate"):
        fine_tune(
            model, prompt, histories, preferences, settings_of(epochs=1), tmp_path, CPU, False
        )
