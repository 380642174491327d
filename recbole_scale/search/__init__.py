"""Hyperparameter search: RecBole's params files in, trials on Ray or with Hyperopt, ``best.yaml`` out."""
