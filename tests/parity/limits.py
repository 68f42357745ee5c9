"""How far two right results may lie apart in fp32, as a share of the largest value, and why.

Processors round otherwise: kernels add in another order, fuse multiply and add or not, and have their own exp and tanh.
How much that gives for a network follows from its depth and widths and from the unit roundoff u = 2^-24 = 6.0e-8. Monte
Carlo arithmetic (`rounding.py`) computes it, on any machine alike. `test_limits.py` draws it anew in each run, and asks
that a limit lies between the largest error that was drawn and ten times that. It then plants faults that shall be seen.

| limit      | in it                                                                  | drawn | limit        |
|------------|------------------------------------------------------------------------|-------|--------------|
| NETWORK    | 2 layers: 10 products with sums of 24 to 192 terms, 10 norms           | 12 u  | 2e-6 = 34 u  |
| GRADIENTS  | the same backwards; then sums over a parameter's up to 27,648 values   | 62 u  | 5e-6 = 84 u  |
| VAE        | some 20 convolutions with sums of up to 2,592 terms, and group norms   | 25 u  | 5e-6 = 84 u  |
| TRAJECTORY | up to 50 calls of a network of one tanh, each error times guidance 6   | 28 u  | 5e-6 = 84 u  |
| ARITHMETIC | schedules and losses: a dozen operations on a number, which IEEE 754 fixes but for tanh | - | 1e-6 = 17 u |

One input is worse conditioned than all of the rest. The angle of a timestep is t w with t up to 999, so that one unit in
the last place of w = exp(...), which a library may be off by, moves it by 6e-5 and the output by some 2e-6. So the
network is given upstream's own timestep embedding, and ours is compared on its own, in units of its last place.
"""

NETWORK = 2e-6
GRADIENTS = 5e-6
VAE = 5e-6
TRAJECTORY = 5e-6
ARITHMETIC = 1e-6
ANGLE_ULPS = 4.0
"""Units in the last place of the angle: 1 of each side's exp, 1/2 of each side's product, and as much for cos and sin."""
