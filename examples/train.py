"""A run of the trainer from a configuration with one value changed; the trained model is saved, loaded and asked."""

import tempfile
from pathlib import Path

from vishwamai import VishwamAI, config
from vishwamai.training import trainer
from vishwamai.training.config import RunConfig

CONFIG = Path(__file__).parent.parent / "configs/train/smoke.json"

run, _ = config.load(RunConfig, CONFIG, ["training.steps=20"])
with tempfile.TemporaryDirectory() as folder:
    result = trainer.train(run, folder, show=False)
    VishwamAI(run.model, result.weights, tokenizer=result.tokenizer).save_pretrained(f"{folder}/model")
    model = VishwamAI.from_pretrained(f"{folder}/model")
    print(f"{result.step} steps in {result.seconds:.0f} s, {model.n_parameters:,} parameters")
    print(repr(model.complete("Make 24 from 1 2 3 4.", max_new_tokens=20)[0]))
