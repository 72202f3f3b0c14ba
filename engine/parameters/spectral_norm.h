/* Spectral norm of a network's convolutions (Miyato, Kataoka, Koyama, Yoshida 2018). They read
 * W / sigma, which lies in `compute`; W, what is learned, stays in `master`. Sigma is what one step
 * of the power iteration, behind each update of W, takes for the largest singular value of W as a
 * matrix [O] x [kT kH kW I] (their algorithm 1; norms of at least 1e-12, as in PyTorch):
 *
 *   v = W'u / |W'u|;   sigma = |W v|;   u = W v / sigma
 *
 * To gradients u and v are constants. With G the gradient by W / sigma, that by W is
 *
 *   (G - <G, W / sigma> u v') / sigma
 *
 * Being linear in G it is made once, of the sum over micro-batches and ranks, so that neither a
 * second pass through the network nor a gradient of a gradient knows of sigma.
 *
 * Of a weight NAME the parameters' `spectral` has NAME_u [O], NAME_v [1,kT,kH,kW,I] and NAME_sigma,
 * a scalar, in its master array alone. */
#ifndef CELFORGE_ENGINE_PARAMETERS_SPECTRAL_NORM_H
#define CELFORGE_ENGINE_PARAMETERS_SPECTRAL_NORM_H

#include "engine/parameters/parameters.h"

/* The network has it from now on; before its first parameter is declared. */
void spectral_attach(Parameters *parameters);

/* What an update's program appends, of frozen parameters; nothing for a network without spectral
 * norm. In front of Adam: the flat gradient, which is that by W / sigma, becomes that by W. */
void spectral_append_gradient(Parameters *parameters, Graph *graph);
/* Behind it: a step of the power iteration, and W / sigma with the new sigma. */
void spectral_append_iteration(Parameters *parameters, Graph *graph);

/* --- Of a network that has it, beside what parameters.h does -------------------------------- */
void spectral_declare(Parameters *parameters); /* u, v, sigma of each weight */
/* Draws u and v from Philox by (seed, network, name) and iterates 15 times on master as it is, as
 * PyTorch does. */
Status spectral_initialize(Parameters *parameters, uint64_t seed, Error *error);
/* Makes compute W / sigma again. */
Status spectral_refresh(Parameters *parameters, Error *error);

#endif
