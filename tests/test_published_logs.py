"""Logs in the forms in which they are published, small and made here, from raw file to a trained model."""

from __future__ import annotations

import gzip
import itertools
import json

import numpy as np
import pytest
from conftest import QUICK

import recbole_scale
from recbole_scale.prepare.command import main

RNG = np.random.default_rng(1)
START = 1_433_221_332  # June 2015


def walks(users=25, items=30, length=12):
    """(user, item, seconds) of users who step along a ring of items."""
    for user in range(users):
        item = int(RNG.integers(items))
        for step in range(length):
            yield user, item, START + user * 1000 + step * 613
            item = (item + 1) % items


def retailrocket(folder):
    lines = ["timestamp,visitorid,event,itemid,transactionid"]
    lines += [f"{t * 1000 + 141},{u},view,{i}," for u, i, t in walks()]
    lines += [f"{START * 1000},{u},transaction,{u},{u}" for u in range(25)]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    return "csv --raw events.csv --user visitorid --item itemid --time timestamp --where event=view", 300


def steam(folder):
    """Australian users' reviews as strict JSON: a user a line, each with an array of reviews."""
    by_user = {}
    for user, item, time in walks():
        day = np.datetime64(time, "s").item().strftime("Posted %B %d, %Y.")
        by_user.setdefault(user, []).append(
            {"item_id": str(item), "posted": day, "recommend": True, "review": 'a "good" one'}
        )
    lines = [json.dumps({"user_id": f"u{user}", "reviews": reviews}) for user, reviews in by_user.items()]
    (folder / "reviews.json.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    call = "jsonl --raw reviews.json.gz --user user_id --item reviews.item_id --time reviews.posted --time_format"
    return [*call.split(), "Posted %B %d, %Y."], 300


def yelp(folder):
    rows = [
        {"review_id": f"{n}", "user_id": f"u{u}", "business_id": f"b{i}", "stars": 4.0, "useful": 0,
         "text": "It\u2019s \"fine\", {really}", "date": np.datetime64(t, "s").item().strftime("%Y-%m-%d %H:%M:%S")}
        for n, (u, i, t) in enumerate(walks())
    ]  # fmt: skip
    (folder / "review.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "jsonl --raw review.json --user user_id --item business_id --time date --rating stars --user_core 5", 300


def lastfm(folder):
    """Last.fm-1K: no header, tabs, names with quotes and blanks, times with a Z."""
    lines = [f'user_{u:06d}\t{np.datetime64(t, "s")}Z\tart{i}\tAC/DC "live\tid-{i}\t12" Mix {i}' for u, i, t in walks()]
    (folder / "log.tsv").write_text("\n".join(lines) + "\n")
    return "csv --raw log.tsv --no_header --quote none --user 1 --time 2 --item 5", 300


def diginetica(folder):
    lines = ["sessionId;userId;itemId;timeframe;eventdate"]
    for u, i, t in walks():
        date = np.datetime64(START + u * 86_400, "s").item().strftime("%Y-%m-%d")
        lines.append(f"{u};NA;{i};{(t - START - u * 1000) * 1000};{date}")
    (folder / "train-item-views.csv").write_text("\n".join(lines) + "\n")
    return "csv --raw train-item-views.csv --session sessionId --item itemId --time timeframe", 300


def amazon_2023(folder):
    rows = [{"rating": 5.0, "title": "x", "asin": f"a{i}", "parent_asin": f"p{i}", "user_id": f"U{u}",
             "timestamp": t * 1000, "verified_purchase": True} for u, i, t in walks()]  # fmt: skip
    (folder / "Books.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "amazon-2023 --raw Books.jsonl --user_core 5", 300


def ready_sequences(folder):
    """The form of most published sequences: 'user item' lines, in order, no times."""
    (folder / "Beauty.txt").write_text("".join(f"{u + 1} {i + 1}\n" for u, i, _ in walks()))
    return "csv --raw Beauty.txt --no_header --user 1 --item 2 --time order", 300


@pytest.mark.parametrize(
    "published", [retailrocket, steam, yelp, lastfm, diginetica, amazon_2023, ready_sequences], ids=lambda f: f.__name__
)
def test_from_the_published_form_to_a_trained_model(folder, published):
    call, rows = published(folder)
    call = call if isinstance(call, list) else call.split()
    name = published.__name__
    assert main([*call, "--out", f"dataset/{name}"]) == 0
    lines = (folder / "dataset" / name / f"{name}.inter").read_text().splitlines()
    assert len(lines) == rows + 1
    at = [part.split(":")[0] for part in lines[0].split("\t")]
    items = {}
    for line in lines[1:]:
        row = dict(zip(at, line.split("\t"), strict=True))
        items.setdefault(row["user_id"], []).append(int("".join(filter(str.isdigit, row["item_id"].split(" ")[-1]))))
    assert len(items) == 25
    if published is not steam:  # days alone do not order a day's reviews beyond the file
        steps = {(b - a) % 30 for group in items.values() for a, b in itertools.pairwise(group)}
        assert steps == {1}
    result = recbole_scale.run("ScaledSASRec", name, config_dict={**QUICK, "epochs": 1, "topk": [5], "n_layers": 1})
    assert 0 < result["nll"] < 4


def test_diginetica_timeframes_are_counts_not_dates(folder):
    call, _ = diginetica(folder)
    main([*call.split(), "--out", "dataset/d"])
    card = json.loads((folder / "dataset" / "d" / "d.json").read_text())
    assert card["statistics"]["users"] == 25 and card["statistics"]["time_unit"] == "s"
