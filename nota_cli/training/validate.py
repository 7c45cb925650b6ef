"""Validation during training: the loss and each task's own metric on rows that are not trained on."""

import torch

from nota_cli.console import say
from nota_cli.data.annotation import Row, family, read_annotation
from nota_cli.data.corpora.caption_labels import caption_metrics
from nota_cli.data.row_batches import RowBatches, in_order, loader
from nota_cli.inference.predict import predict
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.score.cider import cider_d
from nota_cli.score.wer import wer, wer_as_written


@torch.no_grad()
def validate(model: Salmonn) -> dict[str, float]:
    """Loss, WER in percent over the speech rows, CIDEr-D of captions and the rate of those that name the right class.

    Captions are judged by the corpus that their label belongs to (`nota_cli.data.corpora`).
    """
    model.eval()
    losses: list[float] = []
    all_rows: list[Row] = []
    texts: list[str] = []
    for source in model.recipe.data.validation:
        rows = read_annotation(source.annotation)
        groups = in_order(len(rows), model.recipe.generate.batch_size)
        dataset = RowBatches(rows, groups, source.audio_root, model.preprocessor())
        for batch in loader(dataset, range(len(groups)), 0):
            loss, _ = model(batch.features, batch.queries, batch.texts)
            losses += [float(loss)] * len(batch.rows)
        all_rows += rows
        texts += predict(model, rows, source.audio_root, workers=0)
    return {"validation_loss": sum(losses) / max(1, len(losses)), **_task_metrics(all_rows, texts)}


def _task_metrics(rows: list[Row], texts: list[str]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    spoken = [i for i, row in enumerate(rows) if family(row.task) == "asr" and row.text is not None]
    if spoken:
        pairs = [(texts[i], rows[i].text or "") for i in spoken]
        metrics["wer"] = 100 * wer([hypothesis for hypothesis, _ in pairs], [reference for _, reference in pairs]).value
        metrics["wer_as_written"] = 100 * wer_as_written(pairs)
    described = [i for i, row in enumerate(rows) if family(row.task) == "aac" and row.text is not None]
    if len(described) > 1:  # idf needs two
        references = [(rows[i].text or "", *rows[i].texts) for i in described]
        metrics["cider_d"] = cider_d([texts[i] for i in described], references).value
    labeled = [i for i, row in enumerate(rows) if row.label is not None and family(row.task) == "aac"]
    right, unknown = caption_metrics([texts[i] for i in labeled], [rows[i].label or "" for i in labeled])
    if unknown:
        say(f"no figure for captions of {', '.join(unknown[:10])}: labels of no corpus that nota can judge")
    return {**metrics, **right}
