"""Logistic regression on the digits of scikit-learn, its parameters as a list of arrays."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

CLASSES, FEATURES = 10, 64


def create_model(iterations: int, regularisation: float) -> LogisticRegression:
    """Return a model that has parameters before it has seen data."""
    model = LogisticRegression(C=1 / regularisation, max_iter=iterations, warm_start=True)
    model.classes_ = np.arange(CLASSES)
    set_params(model, [np.zeros((CLASSES, FEATURES)), np.zeros(CLASSES)])
    return model


def get_params(model: LogisticRegression) -> list[np.ndarray]:
    return [model.coef_, model.intercept_]


def set_params(model: LogisticRegression, params: list[np.ndarray]) -> None:
    model.coef_, model.intercept_ = params


def load_data(partition_id: int, num_partitions: int):
    """Return a node's images and labels, for training and for testing; stratified, since fit wants all classes."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images[partition_id::num_partitions] / 16, labels[partition_id::num_partitions]
    return train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=1)
