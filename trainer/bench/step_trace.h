/* Takes the trace of a training step, for the simulator, from a planned model. */
#ifndef CELFORGE_TRAINER_BENCH_STEP_TRACE_H
#define CELFORGE_TRAINER_BENCH_STEP_TRACE_H

#include "trainer/gan/gan.h"
#include "trainer/scaling/trace.h"

/* Fills `trace` with the ops of one GAN step of `gan`, each program as often as a step runs it.
 * With R1 every N steps, the trace is that of a step without it. The caller frees it
 * (step_trace_free). */
void step_trace_of_model(const Gan *gan, StepTrace *trace);

#endif
