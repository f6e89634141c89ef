"""Classify with scikit-learn and XGBoost on embeddings that biollm wrote. Copy this file and make it yours; it needs no biollm.

python pipelines/classify_from_embeddings.py --embeddings results/quickstart/embed/pretrain.parquet \
    --records results/quickstart/ingest/records.parquet --label label_coding
"""

import argparse

import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--embeddings", required=True, help="Parquet with the columns id, embedding")
parser.add_argument("--records", required=True, help="Parquet with the columns id, split and the label")
parser.add_argument("--label", required=True, help="column of 0 and 1 in the records, for example label_coding")
arguments = parser.parse_args()

records = pl.read_parquet(arguments.records, columns=["id", "split", arguments.label])
table = records.join(pl.read_parquet(arguments.embeddings), on="id", how="inner", validate="1:1")
assert table.height == records.height, "some records have no embedding"
features = {name: part["embedding"].to_numpy() for (name,), part in table.group_by("split", maintain_order=True)}
labels = {name: part[arguments.label].to_numpy() for (name,), part in table.group_by("split", maintain_order=True)}

heads = {
    "logistic": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)),
    "xgboost": XGBClassifier(n_estimators=300, learning_rate=0.05, max_depth=4, subsample=0.8, random_state=0),
}
for name, head in heads.items():
    head.fit(features["train"], labels["train"])  # the scaler, too, sees train rows only
    scores = head.predict_proba(features["test"])[:, 1]
    auroc, auprc = roc_auc_score(labels["test"], scores), average_precision_score(labels["test"], scores)
    print(f"{name:<10} AUROC {auroc:.3f}  AUPRC {auprc:.3f}")
