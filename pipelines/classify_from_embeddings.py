"""Classify from embeddings that biollm wrote. Copy this file and make it yours.

python pipelines/classify_from_embeddings.py --embeddings results/quickstart/embed/pretrain.parquet \
    --records results/quickstart/ingest/records.parquet --label label_coding
"""

import argparse

import polars as pl
from sklearn.metrics import average_precision_score, roc_auc_score

from biollm.classify import HeadClassifier

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--embeddings", required=True, help="Parquet with the columns id, embedding")
parser.add_argument("--records", required=True, help="Parquet with the columns id, split and the label")
parser.add_argument("--label", required=True, help="column of 0 and 1 in the records, for example label_coding")
arguments = parser.parse_args()

records = pl.read_parquet(arguments.records, columns=["id", "split", arguments.label]).drop_nulls(arguments.label)
table = records.join(pl.read_parquet(arguments.embeddings), on="id", how="inner", validate="1:1")
assert table.height == records.height, "some records have no embedding"
parts = {name: part for (name,), part in table.group_by("split", maintain_order=True)}
X = {name: part["embedding"].to_numpy() for name, part in parts.items()}
y = {name: part[arguments.label].to_numpy() for name, part in parts.items()}

for kind in ("logistic", "xgboost"):  # or ridge, svm, forest, mlp; a scikit-learn estimator: it goes into pipelines and searches
    head = HeadClassifier(kind, calibration="sigmoid")  # fitted on train; settings and probabilities on validation rows
    head.fit(X["train"], y["train"], validation=(X["validation"], y["validation"]))
    scores = head.predict_proba(X["test"])[:, 1]
    auroc, auprc = roc_auc_score(y["test"], scores), average_precision_score(y["test"], scores)
    print(f"{kind:<10} AUROC {auroc:.3f}  AUPRC {auprc:.3f}")
