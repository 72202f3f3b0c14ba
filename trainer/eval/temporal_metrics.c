#include "trainer/eval/temporal_metrics.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "trainer/eval/image_metrics.h"
#include "trainer/eval/optical_flow.h"

/* One of the films: its frame and the one before, expanded for optical flow. */
typedef struct Film {
  FlowPicture *before, *now;
  double flow_error, warp_error; /* sums over pairs */
} Film;

struct Coherence {
  CoherenceShape shape;
  size_t pixels;
  Flow *flow;
  Film films[COHERENCE_MAX_FILMS];
  int64_t pairs, seen_pairs; /* of frames; those with visible pixels */
  double visible_share;      /* a sum over pairs */
  uint8_t *grey, *visible;
  float *forward, *backward, *right, *other; /* the source's flows, the target's, another film's */
};

static Status set_up(Coherence *c, int threads, Error *error) {
  Status status = OK;
  static const char what[] = "the flows of films";
  size_t flow = 2 * c->pixels * sizeof(float);
  TRY(flow_new(c->shape.height, c->shape.width, threads, &c->flow, error));
  for (int i = 0; i < c->shape.films; i++) {
    TRY(flow_picture_new(c->flow, &c->films[i].before, error));
    TRY(flow_picture_new(c->flow, &c->films[i].now, error));
  }
  TRY(mem_bulk(c->pixels, what, (void **)&c->grey, error));
  TRY(mem_bulk(c->pixels, what, (void **)&c->visible, error));
  TRY(mem_bulk(flow, what, (void **)&c->forward, error));
  TRY(mem_bulk(flow, what, (void **)&c->backward, error));
  TRY(mem_bulk(flow, what, (void **)&c->right, error));
  TRY(mem_bulk(flow, what, (void **)&c->other, error));
done:
  return status;
}

Status coherence_new(const CoherenceShape *shape, int threads, Coherence **out, Error *error) {
  Coherence *c = mem_new(1, sizeof *c);
  c->shape = *shape;
  c->pixels = (size_t)shape->height * (size_t)shape->width;
  Status status = set_up(c, threads, error);
  if (status != OK) coherence_free(c);
  *out = status == OK ? c : NULL;
  return status;
}

void coherence_free(Coherence *c) {
  if (!c) return;
  for (int i = 0; i < c->shape.films; i++) {
    flow_picture_free(c->films[i].before);
    flow_picture_free(c->films[i].now);
  }
  flow_free(c->flow);
  free(c->grey);
  free(c->visible);
  free(c->forward);
  free(c->backward);
  free(c->right);
  free(c->other);
  free(c);
}

/* --- Adding ----------------------------------------------------------------------------------- */

static void expand(Coherence *c, Film *film, const uint8_t *frame) {
  FlowPicture *oldest = film->before;
  film->before = film->now;
  film->now = oldest;
  quality_grey(frame, (int64_t)c->pixels, c->grey);
  flow_expand(c->flow, c->grey, film->now);
}

/* The film's flow to the present frame, computed unless it is the source's or the target's. */
static const float *flow_of(Coherence *c, int film) {
  if (film == c->shape.source) return c->forward;
  if (film == c->shape.target) return c->right;
  flow_between(c->flow, c->films[film].before, c->films[film].now, c->other);
  return c->other;
}

/* `frames`: each film's present one, behind the one before. */
static void score_pair(Coherence *c, const uint8_t *const *frames) {
  const Film *source = &c->films[c->shape.source], *target = &c->films[c->shape.target];
  int height = c->shape.height, width = c->shape.width;
  flow_between(c->flow, source->before, source->now, c->forward);
  flow_between(c->flow, source->now, source->before, c->backward);
  flow_between(c->flow, target->before, target->now, c->right);
  int64_t visible = quality_visible(c->forward, c->backward, height, width, c->visible);
  for (int i = 0; i < c->shape.films; i++) {
    Film *film = &c->films[i];
    film->flow_error += quality_flow_error(flow_of(c, i), c->right, (int64_t)c->pixels);
    film->warp_error += quality_warp_error(frames[i] - 3 * c->pixels, frames[i], c->forward,
                                           c->visible, height, width);
  }
  c->pairs++;
  c->seen_pairs += visible > 0;
  c->visible_share += (double)visible / (double)c->pixels;
}

void coherence_add(Coherence *c, const uint8_t *const *films, int frames) {
  for (int t = 0; t < frames; t++) {
    const uint8_t *now[COHERENCE_MAX_FILMS];
    for (int i = 0; i < c->shape.films; i++) {
      now[i] = films[i] + 3 * c->pixels * (size_t)t;
      expand(c, &c->films[i], now[i]);
    }
    if (t > 0) score_pair(c, now);
  }
}

/* --- Asking ----------------------------------------------------------------------------------- */

static double mean(double sum, int64_t count) {
  return count > 0 ? sum / (double)count : (double)NAN;
}

double coherence_tof(const Coherence *c, int film) {
  return mean(c->films[film].flow_error, c->pairs);
}

double coherence_warp_error(const Coherence *c, int film) {
  return mean(c->films[film].warp_error, c->seen_pairs);
}

double coherence_visible(const Coherence *c) {
  return mean(c->visible_share, c->pairs);
}
