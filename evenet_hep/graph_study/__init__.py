"""Does pretraining help the graph network of arXiv:2412.10665? Classes and labels against training from scratch.

``evenet-hep graph-study DATA --out FOLDER`` pretrains once on twelve classes and once on 41 labels, fine-tunes both on five
tasks at several sizes and seeds, and compares them with networks from scratch: accuracy, time to 99 % of the accuracy
from scratch, and what the networks have learnt, by centred kernel alignment. Every network is kept: the same command goes on
where it was stopped.
"""
