"""What is replaced in RecBole 1.2.1, and why. Everything else is a subclass or goes through RecBole's own look-ups.

A name is a method of a class, or a function or name of the modules that import it; a test finds what is replaced when
RecBole is imported, and what the code of this folder assigns to, and holds both against these lists, and that RecBole
still has it.
"""

from __future__ import annotations

REPLACED: dict[str, str] = {
    # look-ups by name, which RecBole resolves inside its own package only
    "get_model": "models outside the package, the nearest to a missing one, no anomaly mode for SINE, KGAT without dgl",
    "get_trainer": "ScaledSASRec's trainer, and those of several processes",
    "create_dataset": "histories in place of padded rows; a pickle that lies in checkpoint_dir is not opened",
    "get_dataloader": "loaders over histories; sequential models are ranked a row at a time among sampled items too",
    "create_samplers": "what a user had before is noted from the split's earlier parts; valid labeled beside test uniN",
    "load_split_dataloaders": "a pickle, opened whenever a file of its name lies in checkpoint_dir",
    "load_data_and_model": "torch 2.6 and later refuse its pickled Config; names of code in a checkpoint are dropped",
    "run": "recbole.quick_start.run with several processes on today's torch",
    "Config.__new__": "Config(...) makes our subclass, whoever imported the class first and by whatever name",
    # reading
    "Dataset._load_feat": "our fast reader, which names line and column of a fault",
    "Dataset._fill_nan": "fills gaps in copies, which pandas 3 drops",
    "Dataset._remap": "tables of ids are as long as their texts, not as wide as the longest for every id",
    "Dataset._load_inter_feat": "a missing or empty file is one sentence",
    "Dataset._download": "a data set that RecBole does not know is a missing file, not a failed download",
    "Dataset.build": "exact order of times; eval_args.split TS cuts one time line for every model",
    "Dataset.get_preload_weight": "float64 as read, which KSR's layers do not take",
    "SequentialDataset._change_feat_format": "exact order of times, which RecBole makes float32 first",
    # evaluation
    "FullSortEvalDataLoader.collate_fn": "ranking without what a user had before, beside RecBole's own",
    "Trainer._full_sort_batch_eval": "NLL and second lists from the scores that are ranked, which need not be kept",
    "Collector": "gathers one number a row for NLL, joined once and not at every batch",
    "Evaluator": "measures the second lists too",
    "RepeatableSampler.get_used_ids": "one empty set for all users in place of one for each",
    # checkpoints and resuming
    "Trainer._save_checkpoint": "tensors and plain data in place of a pickle",
    "Trainer.resume_checkpoint": "reads them safely, and goes on where the run was, bit for bit",
    "Trainer.fit": "writes what going on needs after every epoch",
    "PretrainTrainer.save_pretrained_model": "as Trainer._save_checkpoint",
    "PretrainTrainer.pretrain": "counts of items, which some metrics need; the last epoch is saved, too",
    "AbstractRecommender.load_other_parameter": "arrays and sparse matrices come back from plain data",
    "DecisionTreeTrainer._save_checkpoint": "the booster's own file as bytes in place of a pickle",
    "DecisionTreeTrainer.fit": "no temporary files are left",
    "LightGBMTrainer.evaluate": "reads such a checkpoint",
    "XGBoostTrainer.evaluate": "reads such a checkpoint",
    # today's packages, and terminals
    "tune": "quick_start imports Ray for one call that an ordinary run never makes",
    "np": "HyperTuning knows names of numpy 1",
    "eval": "HyperTuning evaluates its choices; here they are read as YAML",
    "ensure_dir": "fails when two processes make one folder",
    "init": "colorama's would strip colours and wrap the output once more for every run",
    "tqdm": "bars are still where no terminal is",
}
# not when RecBole is imported, or not RecBole's
BESIDE: dict[str, str] = {
    "init_seed": "in one of several processes of RecBole's own call: it adds the rank to the seed, and weights differ",
    "dok_matrix._update": "scipy 1.13 and later have none; seven graph models fill their matrices by it",
    "np.float_, np.complex_, np.unicode_": "numpy 2 has none; RecBole's Config reads them",
    "torch_scatter": "two functions of it for KGIN, where the package is missing: today's torch has no build of it",
    "logging": "a filter on the root logger mends RaCT's message, which has no place for its argument",
    "Series.agg": "RecBole means the length of each list by agg(len), which pandas 3 takes for that of the column",
    "warnings": "torch's of names that are to go, and of columns that tensors share, which pandas 3 calls read-only",
}
