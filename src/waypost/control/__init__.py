"""The control plane: what is not on the way of a model's answer. One action is one function, whoever calls it."""
