"""What each method minimises and how it steps, in symbols and in words, for the model card of a run."""

BILEVEL = """\
Bilevel-ZOFO (arXiv 2502.03604) trains all weights theta of the base by zeroth order and a small adapter p by
backpropagation, with a second adapter s beside it:

    min over theta, p, max over s of   A + lambda (B - C)
    A = F(theta, p; D_f)    B = F(theta, p; D_p)    C = F(theta, s; D_p)

F is the mean over rows of the loss (or minus the metric) that `method.objective` names.
In words: theta and p should do well on D_f, while p stays as
good on D_p as the best adapter s that can be found there. Below, s (and p, as the coupling says) take gradient
steps; above, theta takes one step: along a random direction, scaled by the difference of the losses at two points, or (`method.upper`
sketch) along a random sketch of its gradient."""

SKETCH = """\
All weights by a random sketch of their gradient, formed beside a backward pass; there is no adapter:

    theta <- theta - lr * rule( Q R ),    Q = G R^T,  G the gradient of F, R random of r rows a layer

In words: each layer's gradient is seen through r random directions, afresh, and in the mean as it is."""

MEZO = """\
MeZO (arXiv 2305.17333), with exact probing, needs no backpropagation:

    theta <- theta - lr * c z,    c = [ F(theta + eps z) - F(theta - eps z) ] / (2 eps)

F is the mean over rows of the loss (or minus the metric) that `method.objective` names.
In words: move along a random direction z as far as the
losses on its two sides differ."""

FIRST_ORDER = """\
Ordinary training by backpropagation, of an adapter p on a frozen base, or (`method.tune` full) of all weights theta:

    p <- p - lr * optimizer( clip( gradient of F(theta, p) in p ) )
    theta <- (1 - lr decay) theta - lr * optimizer( clip( gradient of F(theta) in theta ) )

F is the mean over rows of the loss (or minus the metric) that `method.objective` names.
In words: ordinary training."""

TWO_STAGE = """\
First an adapter p by backpropagation on a frozen base, then base and adapter together by zeroth order:

    p <- p - lr_p * optimizer( clip( gradient of F(theta, p) in p ) )                           steps 1 to stage_one
    (theta, p) <- (theta, p) - lr_theta * c z,    c as in MeZO, one z over theta and p          the steps after them

F is the mean over rows of the loss (or, in the second stage, minus the metric) that `method.objective` names.
In words: an ordinary adapter, then a walk of everything along random directions."""

ADDAX = """\
Addax (arXiv 2410.06441): all weights by two gradients at once, one along a random direction and one exact:

    theta <- theta - lr * ( alpha c z + (1 - alpha) g ),    c = [ F(theta + eps z; B0) - F(theta - eps z; B0) ] / (2 eps)
    g = gradient of F(theta; B1) in theta

F is the mean over rows of the loss that `method.objective` names (c z may go by minus the metric instead).
In words: long rows (B0), which would need much memory for a backward pass, are seen by their losses alone, short
rows (B1) by their gradient; without a split both batches are drawn from all rows."""

META = """\
Bilevel-ZOFO over many tasks (arXiv 2502.03604, section 4.2): one theta for all, and for each task i an adapter p_i and a
second one s_i beside it (or, `method.adapters` shared, one pair for all):

    min over theta   mean over i of   min over p_i, max over s_i of   G_i = A_i + lambda (B_i - C_i)
    A_i = F(theta, p_i; D_f of task i)    B_i = F(theta, p_i; D_p of task i)    C_i = F(theta, s_i; D_p of task i)

F is the mean over rows of the loss that `method.objective` names. In words: each step takes a few tasks, trains each
one's adapters a little, and moves the weights to where all of them do better."""

REPTILE = """\
Reptile (arXiv 1803.02999): a start for an adapter from which any of the tasks is a few steps away, on a frozen base:

    p_i <- steps of the optimizer on task i, from p        p <- p + lr_outer * mean over i of ( p_i - p )

In words: try a few tasks from where p is, and go towards where they led."""
