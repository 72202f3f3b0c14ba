/* Spectral normalisation of a network's convolutions (Miyato, Kataoka, Koyama, Yoshida 2018).
 * Convolutions read W / sigma, stored in `compute`; the learned weight W stays in `master`. Sigma
 * is the estimate of the largest singular value of W as a matrix [O] x [kT kH kW I] by one step of
 * the power iteration after each update of W (their algorithm 1; norms of at least 1e-12, as in
 * PyTorch):
 *
 *   v = W'u / |W'u|;   sigma = |W v|;   u = W v / sigma
 *
 * u and v are constants in differentiation. With G the gradient with respect to W / sigma, the
 * gradient with respect to W is
 *
 *   (G - <G, W / sigma> u v') / sigma
 *
 * This is linear in G and is therefore applied once, to the sum over micro-batches and ranks; no
 * other part of the engine has to know about sigma.
 *
 * For each weight NAME, the parameters' `spectral` holds NAME_u [O], NAME_v [1,kT,kH,kW,I] and the
 * scalar NAME_sigma, in its master array alone. */
#ifndef CELFORGE_ENGINE_PARAMETERS_SPECTRAL_NORM_H
#define CELFORGE_ENGINE_PARAMETERS_SPECTRAL_NORM_H

#include "engine/parameters/parameters.h"

/* Enables spectral norm for a network. Call it before its first parameter is declared. */
void spectral_attach(Parameters *parameters);

/* Both append to the graph of an update; the parameters are frozen. They do nothing for a network
 * without spectral norm. Before Adam: turns the flat gradient with respect to W / sigma into the
 * one with respect to W. */
void spectral_append_gradient(Parameters *parameters, Graph *graph);
/* After Adam: one step of the power iteration, then compute = W / sigma with the new sigma. */
void spectral_append_iteration(Parameters *parameters, Graph *graph);

/* Initialises u and v with Philox random numbers keyed by (seed, network, name), then runs 15 steps
 * of the power iteration on the current master, as PyTorch does. parameters_initialize calls it;
 * call it again after loading other weights. */
Status spectral_initialize(Parameters *parameters, uint64_t seed, Error *error);

#endif
