"""Classify from embeddings that biollm wrote. Copy this file and make it yours.

python pipelines/classify_from_embeddings.py --embeddings results/quickstart/embed/pretrain.parquet \
    --records results/quickstart/ingest/records.parquet --label label_coding"""

import argparse

import polars as pl
from sklearn.metrics import average_precision_score, roc_auc_score

from biollm.classify import HeadClassifier, load_head
from biollm.classify.data import load_embeddings
from biollm.core.errors import BiollmError, DataError

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--embeddings", required=True, help="Parquet with the columns id, embedding, or a folder of embed-file")
parser.add_argument("--records", required=True, help="Parquet with the columns id, split and the label")
parser.add_argument("--label", required=True, help="column of 0 and 1 in the records, for example label_coding")
parser.add_argument("--same-model-as", metavar="HEAD", help="stop if this saved head (…/classify/heads/<row>) reads another model")
arguments = parser.parse_args()
try:
    table = pl.read_parquet(arguments.records, columns=["id", "split", arguments.label])
    records = table.drop_nulls(arguments.label)
    if odd := [id_ for id_, value in records.select("id", arguments.label).iter_rows() if value not in (0, 1)]:
        raise DataError(f"{arguments.records}: {len(odd)} records have neither 0, 1 nor null in '{arguments.label}': {', '.join(odd[:5])}")
    vectors = load_embeddings(arguments.embeddings, records["id"].to_list(), frozenset(table["id"]) - frozenset(records["id"]))
    if arguments.same_model_as:
        load_head(arguments.same_model_as, embeddings=arguments.embeddings)
except (BiollmError, pl.exceptions.PolarsError, OSError) as error:
    raise SystemExit(str(error) if isinstance(error, BiollmError) else f"{arguments.records}: {str(error).splitlines()[0]}") from None
X, y, labels = {}, {}, records[arguments.label].to_numpy()
for split in ("train", "validation", "test"):
    X[split], y[split] = vectors[records["split"] == split], labels[records["split"] == split]
    if (found := set(y[split].tolist())) != {0, 1}:
        some = ", ".join(records.filter(split=split)["id"].head(3)) or "no record"
        raise SystemExit(f"{arguments.records}: the {split} split (first: {some}) has {arguments.label} {found or None}; expected 0 and 1")
for kind in ("logistic", "xgboost"):  # or ridge, svm, forest, mlp; settings and probabilities are chosen on validation rows
    head = HeadClassifier(kind, calibration="sigmoid").fit(X["train"], y["train"], validation=(X["validation"], y["validation"]))
    scores = head.predict_proba(X["test"])[:, 1]
    print(f"{kind:<10} AUROC {roc_auc_score(y['test'], scores):.3f}  AUPRC {average_precision_score(y['test'], scores):.3f}")
