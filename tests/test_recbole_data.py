"""RecBole's data settings through our reader: filters, ids, features, labels, graphs and transforms, by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from recbole.data import create_dataset
from recbole.data.transform import construct_transform
from recbole_data import NAME, settings_of, with_first_weights, write_made

from recbole_scale.errors import UserError
from recbole_scale.runs.run import make_config

PLAIN = {"load_col": None, "normalize_all": False, "state": "error"}


@pytest.fixture
def rated(folder):
    """Interactions of 12 users and 10 items with repetitions; some users and items are in no file of features."""
    rng = np.random.default_rng(4)
    rows = [(f"u{rng.integers(12)}", f"i{rng.integers(10)}", int(rng.integers(6)), k) for k in rng.permutation(90)]
    place = folder / "dataset" / "rated"
    place.mkdir(parents=True)
    tables = {
        "inter": [["user_id:token", "item_id:token", "rating:float", "timestamp:float"], *rows],
        "user": [["user_id:token", "age:float"], *((f"u{user}", user) for user in range(10))],
        "item": [["item_id:token", "price:float", "kinds:token_seq"],
                 *((f"i{item}", item / 2, "a b c d"[: 2 * item % 8]) for item in range(9))],
    }  # fmt: skip
    for suffix, lines in tables.items():
        (place / f"rated.{suffix}").write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return rows


def read(model="BPR", name="rated", **settings):
    return create_dataset(make_config(model, name, config_dict={**PLAIN, **settings}))


def rows_of(dataset):
    """(user, item, rating, time) with the texts of the file."""
    frame = dataset.inter_feat
    users, items = (dataset.field2id_token[name][frame[name].to_numpy()] for name in ("user_id", "item_id"))
    return sorted(zip(users, items, frame["rating"], frame["timestamp"], strict=True))


def inside(interval, value):
    """Whether a value is in one of the intervals, such as ``(-inf,4);(4,inf)``."""
    for part in interval.split(";"):
        low, high = map(float, part[1:-1].split(","))
        if (low < value or (low == value and part[0] == "[")) and (value < high or (value == high and part[-1] == "]")):
            return True
    return False


def kept(rows, settings):
    """RecBole's filters in its order: repetitions, values, rows without features, and numbers until nothing changes."""
    rows = sorted(rows, key=lambda row: row[3])
    if settings.get("rm_dup_inter"):
        latest = settings["rm_dup_inter"] == "last"
        by_pair = {}
        for row in rows:
            if latest or row[:2] not in by_pair:
                by_pair[row[:2]] = row
        rows = list(by_pair.values())
    values = settings.get("val_interval", {})
    rows = [row for row in rows if inside(values.get("rating", "[0,9]"), row[2])]
    rows = [row for row in rows if inside(values.get("timestamp", "[0,99]"), row[3])]
    if settings.get("filter_inter_by_user_or_item", True):
        users = {f"u{user}" for user in range(10) if inside(values.get("age", "[0,99]"), user)}
        items = {f"i{item}" for item in range(9) if inside(values.get("price", "[0,99]"), item / 2)}
        rows = [row for row in rows if row[0] in users and row[1] in items]
    before = None
    while rows != before:
        before, counts = rows, [Counter(row[place] for row in rows) for place in (0, 1)]
        asked = [settings.get(f"{who}_inter_num_interval") or "[0,inf)" for who in ("user", "item")]
        rows = [row for row in rows if all(inside(asked[place], counts[place][row[place]]) for place in (0, 1))]
    return rows


FILTERS = [
    {}, {"filter_inter_by_user_or_item": False}, {"rm_dup_inter": "first"}, {"rm_dup_inter": "last"},
    {"val_interval": {"timestamp": "[40,inf)"}},
    {"val_interval": {"timestamp": "(-inf,40]", "rating": "(-inf,4);(4,inf)"}},
    {"val_interval": {"rating": "[0,0]"}}, {"val_interval": {"age": "(-inf,4]", "price": "(-inf,2);(2,inf)"}},
    {"user_inter_num_interval": "[8,inf)"}, {"item_inter_num_interval": "(-inf,9]"},
    {"user_inter_num_interval": "[3,8]", "item_inter_num_interval": "[4,inf)"},
    {"rm_dup_inter": "first", "val_interval": {"rating": "(-inf,4]"}, "user_inter_num_interval": "[4,inf)",
     "item_inter_num_interval": "[3,inf)"},
    {"rm_dup_inter": "last", "filter_inter_by_user_or_item": False, "item_inter_num_interval": "[6,inf)"},
]  # fmt: skip


@pytest.mark.parametrize("model", ["BPR", "GRU4Rec"])
@pytest.mark.parametrize("settings", FILTERS, ids=str)
def test_filters_keep_what_they_say(rated, model, settings):
    expected = kept(rated, settings)
    assert len(expected) > 0
    assert rows_of(read(model, **settings)) == sorted(expected)


def test_columns_of_one_meaning_share_their_ids_and_lists_keep_their_order(folder):
    place = folder / "dataset" / "named"
    place.mkdir(parents=True)
    lines = ["ua ia ub ie|uc ue", "ub ib ue ic|", "uc ic ud if|ua ub uc", "ud id uf ia|uf"]
    head = "user_id:token\titem_id:token\tfriend:token\tnext:token\tgroup:token_seq"
    rows = [[*line.split("|")[0].split(), line.split("|")[1]] for line in lines]
    (place / "named.inter").write_text("\n".join([head, *map("\t".join, rows)]) + "\n")
    data = read(name="named", alias_of_user_id=["friend", "group"], alias_of_item_id=["next"])
    tokens, frame = data.field2id_token, data.inter_feat
    assert data.user_num == data.item_num == 7  # six of each, and padding
    assert tokens["user_id"] is tokens["friend"] is tokens["group"] and tokens["item_id"] is tokens["next"]
    for place, name in enumerate(("user_id", "item_id", "friend", "next")):
        assert tokens[name][frame[name].to_numpy()].tolist() == [row[place] for row in rows]
    assert [" ".join(tokens["group"][ids]) for ids in frame["group"]] == [row[4] for row in rows]
    apart = read(name="named")
    assert apart.field2id_token["next"].tolist() == ["[PAD]", "ie", "ic", "if", "ia"] and apart.item_num == 5


def test_what_is_missing_is_filled_and_numbers_are_scaled_between_0_and_1(rated, folder):
    data = read(filter_inter_by_user_or_item=False)
    ages, users = data.user_feat["age"].to_numpy(), data.field2id_token["user_id"][data.user_feat["user_id"].to_numpy()]
    known = {f"u{user}": user for user in range(10)}
    assert {u: a for u, a in zip(users, ages, strict=True) if u in known} == known
    absent = [a for u, a in zip(users, ages, strict=True) if u not in known]
    assert absent == pytest.approx([4.5] * 3)  # two users without features, and padding
    kinds = dict(zip(data.item_feat["item_id"], data.item_feat["kinds"], strict=True))
    assert all(len(ids) == (int(data.field2id_token["item_id"][i][1:]) * 2 % 8 + 1) // 2
               for i, ids in kinds.items() if data.field2id_token["item_id"][i] not in ("[PAD]", "i9"))  # fmt: skip
    scaled = read(normalize_field=["rating"]).inter_feat["rating"].to_numpy()
    assert sorted(scaled) == pytest.approx(sorted(row[2] / 5 for row in kept(rated, {})))


def test_labels_are_ratings_from_the_threshold_on(rated):
    plain, data = read(), read(threshold={"rating": 3})
    assert "rating" not in data.inter_feat
    assert data.inter_feat["label"].tolist() == [float(rating >= 3) for rating in plain.inter_feat["rating"]]


def test_a_knowledge_graph_shares_the_items_ids_filters_and_turns_round(folder):
    write_made(folder)
    lines = (folder / "dataset" / NAME / f"{NAME}.kg").read_text().splitlines()[1:]
    triples = [tuple(line.split("\t")) for line in lines]

    def texts(data):
        heads, relations, tails = (data.kg_feat[name].to_numpy() for name in ("head_id", "relation_id", "tail_id"))
        entities, kinds = data.field2id_token["entity_id"], data.field2id_token["relation_id"]
        return [*zip(entities[heads], kinds[relations], entities[tails], strict=True)]

    data = read("CKE", NAME, **settings_of("CKE"))
    assert sorted(texts(data)) == sorted(triples)
    items, entities = data.field2id_token["item_id"], data.field2id_token["entity_id"]
    assert [f"e{item[1:]}" for item in items[1:]] == entities[1 : len(items)].tolist()
    turned = read("CKE", NAME, **settings_of("CKE"), kg_reverse_r=True)
    assert sorted(texts(turned)) == sorted([*triples, *((tail, f"{kind}_r", head) for head, kind, tail in triples)])
    count = Counter(end for head, _, tail in triples for end in (head, tail))
    asked = settings_of("CKE") | {"entity_kg_num_interval": "[4,inf)"}
    few = Counter(end for head, _, tail in texts(read("CKE", NAME, **asked)) for end in (head, tail))
    assert max(count.values()) >= 4 and (not few or min(few.values()) >= 4)
    asked = settings_of("CKE") | {"relation_kg_num_interval": "[1000,inf)"}
    assert texts(read("CKE", NAME, **asked)) == []


@pytest.mark.parametrize("on_demand", [True, False])
@pytest.mark.parametrize("transform", ["mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq"])
def test_transforms_change_the_rows_as_their_names_say(folder, transform, on_demand):
    write_made(folder)
    more = {"mask_ratio": 1.0, "ft_ratio": 0.0, "eta": 0.6, "beta": 0.9}
    model = "BERT4Rec" if transform == "mask_itemseq" else "GRU4Rec"
    own = {key: more[key] for key in (("mask_ratio", "ft_ratio") if model == "BERT4Rec" else ())}
    prepared, *_ = with_first_weights(model, transform=transform, rows_on_demand=on_demand, **own)
    data = prepared.train_data._dataset
    for key, value in more.items():
        prepared.config[key] = value
    change = construct_transform(prepared.config)
    rows = change(data, data[torch.arange(len(data))])
    name = {"mask_itemseq": "MASK_ITEM_SEQ", "inverse_itemseq": "INVERSE_ITEM_SEQ", "crop_itemseq": "CROP_ITEM_SEQ",
            "reorder_itemseq": "REORDER_ITEM_SEQ"}[transform]  # fmt: skip
    before, after, lengths = rows["item_id_list"], rows[getattr(change, name)], rows["item_length"]
    assert len(rows) > 100
    for was, now, length in zip(before.tolist(), after.tolist(), lengths.tolist(), strict=True):
        real = [item for item in now if item]
        if transform == "mask_itemseq":
            assert real == [data.item_num] * length
        elif transform == "inverse_itemseq":
            assert now[-length:] == was[:length] and not any(now[:-length])
        elif transform == "crop_itemseq":
            part = int(0.6 * length)
            assert real in [was[start : start + part] for start in range(length - part + 1)]
        else:
            assert sorted(real) == sorted(was[:length])
    changed = (before != after).any(dim=1)
    assert changed.float().mean() > 0.3


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "gb18030"])
@pytest.mark.parametrize("model", ["ScaledSASRec", "GRU4Rec", "BPR"])
def test_interactions_are_read_in_any_encoding(walk, model, encoding):
    path = walk / "dataset" / "walk" / "walk.inter"
    lines = path.read_text().replace("\ti1\t", "\tcaf\u00e9\t")
    settings = {**PLAIN, "bad_rows": "as_recbole", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    for text in (lines, lines.replace("\n", "\tmore\n").replace("\tmore\n", "\n", 1)):  # the second is read leniently
        path.write_bytes(text.encode(encoding))
        data = create_dataset(make_config(model, "walk", config_dict={**settings, "encoding": encoding}))
        assert "caf\u00e9" in data.field2id_token["item_id"] and data.item_num == 41
    if encoding != "latin-1":  # which any bytes are
        wrong = {"utf-16": b"\x00\xd8a\x00"}.get(encoding, b"\xff") + b"\n\x00"
        path.write_bytes(lines[:-1].encode(encoding) + wrong)
        says = f"walk.inter, line 1121, column 3.*not {'UTF-8' if encoding == 'utf-8' else encoding} text"
        with pytest.raises(UserError, match=says):
            config = make_config(model, "walk", config_dict={**settings, "bad_rows": "refuse", "encoding": encoding})
            create_dataset(config)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_features_are_read_with_their_gaps_in_any_encoding(walk, encoding):
    lines = ["item_id:token\tname:token\tprice:float\ttags:token_seq\tsizes:float_seq",
             "i0\tcaf\u00e9\t1.5\ta b\t1 2", "i1\t\t\t\t", "i2\tx\t2.5\tb\t3", "i3\ty"]  # fmt: skip
    path = walk / "dataset" / "walk" / "walk.item"
    path.write_bytes("\n".join(lines).encode(encoding))
    interactions = path.with_suffix(".inter")
    interactions.write_bytes(interactions.read_text().encode(encoding))
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "name", "price", "tags", "sizes"]}
    config = make_config("BPR", "walk", config_dict={**PLAIN, "encoding": encoding, "load_col": columns})
    data = create_dataset(config)
    assert {name: data.field2seqlen[name] for name in columns["item"]} == {
        "item_id": 1, "name": 1, "price": 1, "tags": 2, "sizes": 2,
    }  # fmt: skip
    texts = {name: data.field2id_token[name] for name in ("item_id", "name", "tags")}
    found = {
        texts["item_id"][int(item)]: (
            texts["name"][int(name)],
            price,
            [texts["tags"][int(tag)] for tag in tags],
            [*map(float, sizes)],
        )
        for item, name, price, tags, sizes in data.item_feat[columns["item"]].itertuples(index=False)
    }
    assert {item: found[item] for item in ("i0", "i1", "i2", "i3")} == {
        "i0": ("caf\u00e9", 1.5, ["a", "b"], [1, 2]), "i1": ("[PAD]", 2, [], []),
        "i2": ("x", 2.5, ["b"], [3]), "i3": ("y", 2, [], []),
    }  # fmt: skip
    path.write_bytes("\n".join([*lines, "i4\tz\tdear\ta\t1"]).encode(encoding))
    with pytest.raises(UserError, match=r"walk.item, line 6, column 3 \(price\): 'dear' is not a number"):
        create_dataset(config)
