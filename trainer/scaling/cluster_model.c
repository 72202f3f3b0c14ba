#include "trainer/scaling/cluster_model.h"

#include <float.h>
#include <math.h>

#define INT(key, field, low, high, text, help)                                                     \
  { key, CONFIG_INT, offsetof(Cluster, field), low, high, text, NULL, help }
#define REAL(key, field, low, high, text, help)                                                    \
  { key, CONFIG_REAL, offsetof(Cluster, field), low, high, text, NULL, help }
#define CHOICE(key, field, choices, text, help)                                                    \
  { key, CONFIG_CHOICE, offsetof(Cluster, field), 0, 0, text, choices, help }

static const ConfigKey KEYS[] = {
    INT("node.count", node.count, 1, 65536, "1", "nodes there are"),
    INT("node.ranks", node.ranks, 1, 1024, "1", "ranks (GPUs) of a node"),
    INT("node.cores", node.cores, 0, 65536, "0",
        "cores that the ranks of a node share; 0: each has a device of its own"),
    REAL("node.memory", node.memory, 0, 1e6, "0",
         "memory bandwidth they share, GB/s; 0: never the limit"),

    CHOICE("device.times", device.times, "measured|roofline", "roofline",
           "what an op takes: as measured here, or from its FLOPs and bytes and the numbers below"),
    REAL("device.f32", device.f32, 1e-6, 1e6, "1", "peak in f32, TFLOP/s"),
    REAL("device.bf16", device.bf16, 1e-6, 1e6, "1", "peak in bf16, TFLOP/s"),
    REAL("device.efficiency", device.efficiency, 1e-4, 1, "0.5", "share of the peak ops reach"),
    REAL("device.memory", device.memory, 1e-6, 1e6, "1", "memory bandwidth, GB/s"),
    REAL("device.memory_efficiency", device.memory_efficiency, 1e-4, 1, "0.8",
         "share of the memory bandwidth ops reach"),
    REAL("device.launch_us", device.launch_us, 0, 1e6, "0", "cost of starting an op, microseconds"),

    REAL("near.latency_us", near.latency_us, 0, 1e9, "0",
         "of a message between ranks of a node, microseconds"),
    REAL("near.bandwidth", near.bandwidth, 1e-6, 1e9, "1",
         "of a rank to others of its node, one way, as all-reduces reach it, GB/s"),
    REAL("far.latency_us", far.latency_us, 0, 1e9, "0", "of a message between nodes, microseconds"),
    REAL("far.bandwidth", far.bandwidth, 1e-6, 1e9, "1",
         "of a network adapter, one way, as all-reduces reach it, GB/s"),
    INT("far.adapters", far.adapters, 1, 1024, "1", "network adapters of a node"),

    CHOICE("reduce.algorithm", reduce.algorithm, "ring|tree|doubling|hierarchical|best", "best",
           "how gradients are all-reduced; best: the fastest for the size"),
    REAL("reduce.call_us", reduce.call_us, 0, 1e9, "0",
         "fixed cost of an all-reduce, microseconds"),
    REAL("reduce.interference", reduce.interference, 0, 0.99, "0",
         "share by which computing slows down while an all-reduce is under way"),

    REAL("step.spread", step.spread, 0, 10, "0",
         "standard deviation of the logarithm of a rank's time to compute a step"),
    REAL("step.slow_share", step.slow_share, 0, 1, "0",
         "share of a rank's steps that are stragglers"),
    REAL("step.slow_by", step.slow_by, 0, 1000, "0",
         "how much longer a straggler computes, as a share"),
    REAL("step.host_ms", step.host_ms, 0, 1e9, "0",
         "work of each step beside its ops, the same on any number of ranks, milliseconds"),

    REAL("storage.node_read", storage.node_read, 0, 1e9, "0",
         "what a node reads of the data set, GB/s; 0: never the limit"),
    REAL("storage.read", storage.read, 0, 1e9, "0",
         "what all nodes together read, GB/s; 0: as above"),
    REAL("storage.copy", storage.copy, 0, 1e9, "0",
         "copying a checkpoint aside, while all wait, GB/s; 0: takes no time"),
    REAL("storage.write", storage.write, 0, 1e9, "0",
         "writing it in the background, GB/s; 0: takes no time"),

    REAL("failure.node_hours", failure.node_hours, 0, 1e12, "0",
         "mean time between the failures of one node, hours; 0: it never fails"),
    REAL("failure.restart", failure.restart, 0, 1e9, "0",
         "from a failure to the first step after it, seconds"),
};

const ConfigSchema cluster_schema = {KEYS, sizeof KEYS / sizeof *KEYS, NULL, "--cluster-set"};

Status cluster_load(const char *path, const char *const *changes, int change_count,
                    Cluster *cluster, Error *error) {
  Status status = OK;
  Cluster loaded;
  ConfigPlaces *places = config_places_put_aside(); /* of a config that is simulated on it */
  TRY(config_set_defaults(&cluster_schema, &loaded, error));
  TRY(config_load(&cluster_schema, path, &loaded, error));
  for (int i = 0; i < change_count; i++)
    TRY(config_assign(&cluster_schema, changes[i], &loaded, error));
  if (loaded.device.times == OP_TIMES_ROOFLINE && loaded.node.cores > 0)
    TRY(config_error("node.cores", error,
                     "%lld shared cores need device.times: measured; allowed: 0",
                     (long long)loaded.node.cores));
  if (loaded.step.slow_share > 0 && loaded.step.slow_by <= 0)
    TRY(config_error("step.slow_share", error, "%g needs step.slow_by above 0",
                     loaded.step.slow_share));
  *cluster = loaded;
done:
  config_places_put_back(places);
  return status;
}

int cluster_nodes(const Cluster *cluster, int ranks) {
  int each = (int)cluster->node.ranks;
  return (ranks + each - 1) / each;
}

Status cluster_check_ranks(const Cluster *cluster, int ranks, Error *error) {
  int64_t each = cluster->node.ranks, all = each * cluster->node.count;
  if (ranks >= 1 && ranks <= all && (ranks <= each || ranks % each == 0)) return OK;
  return error_set(error, ERROR_USAGE,
                   "%d ranks do not fill nodes of %lld; allowed: 1 to %lld, or a multiple of it up "
                   "to %lld",
                   ranks, (long long)each, (long long)each, (long long)all);
}

/* --- Messages --------------------------------------------------------------------------------- */

/* Where an all-reduce runs: seconds and bytes per second. */
typedef struct Links {
  int ranks, nodes, local; /* local: ranks of a node */
  double near_alpha, near_rate, far_alpha;
  double far_rate; /* of a whole node */
} Links;

/* How many ranks of a node there are for each that its cores can run at once. */
static double turns(const Cluster *cluster, int ranks, int64_t threads) {
  int local = ranks / cluster_nodes(cluster, ranks);
  if (cluster->node.cores == 0) return 1;
  return fmax(1, (double)(local * threads) / (double)cluster->node.cores);
}

/* Where ranks take turns on cores, so do their messages. */
static Links links_of(const Cluster *cluster, int ranks) {
  int nodes = cluster_nodes(cluster, ranks);
  return (Links){
      .ranks = ranks,
      .nodes = nodes,
      .local = ranks / nodes,
      .near_alpha = cluster->near.latency_us * 1e-6,
      .near_rate = cluster->near.bandwidth * 1e9 / turns(cluster, ranks, 1),
      .far_alpha = cluster->far.latency_us * 1e-6,
      .far_rate = cluster->far.bandwidth * (double)cluster->far.adapters * 1e9,
  };
}

static int levels(int count) {
  int bits = 0;
  while ((1 << bits) < count) bits++;
  return bits;
}

/* Latencies along a path down (or up) a tree over all ranks. */
static double tree_latency(const Links *links) {
  return levels(links->local) * links->near_alpha + levels(links->nodes) * links->far_alpha;
}

/* The slowest link that every byte has to pass. */
static double slowest_rate(const Links *links) {
  if (links->nodes == 1) return links->near_rate;
  if (links->local == 1) return links->far_rate;
  return fmin(links->near_rate, links->far_rate);
}

/* Of `count` members; `alpha` is the mean of a hop's. */
static double ring(int count, double bytes, double alpha, double rate) {
  return 2.0 * (count - 1) * (alpha + bytes / count / rate);
}

static double flat_ring(const Links *links, double bytes) {
  int n = links->ranks, far_hops = links->nodes > 1 ? links->nodes : 0;
  double alpha = ((n - far_hops) * links->near_alpha + far_hops * links->far_alpha) / n;
  return ring(n, bytes, alpha, slowest_rate(links));
}

static double tree(const Links *links, double bytes) {
  return 2 * (tree_latency(links) + bytes / slowest_rate(links));
}

/* All ranks of a node send at once on the far levels: they share its adapters. */
static double doubling(const Links *links, double bytes) {
  return tree_latency(links) + levels(links->local) * bytes / links->near_rate +
         levels(links->nodes) * bytes * links->local / links->far_rate;
}

static double hierarchical(const Links *links, double bytes) {
  int nodes = links->nodes, local = links->local;
  double inside = local > 1 ? ring(local, bytes, links->near_alpha, links->near_rate) : 0;
  if (nodes == 1) return inside;
  double part = bytes / local, rate = links->far_rate / local;
  double by_ring = ring(nodes, part, links->far_alpha, rate);
  double by_tree = 2 * (levels(nodes) * links->far_alpha + part / rate);
  return inside + fmin(by_ring, by_tree);
}

double cluster_reduce_seconds(const Cluster *cluster, Reduction reduction, int ranks,
                              double bytes) {
  if (ranks <= 1) return 0;
  Links links = links_of(cluster, ranks);
  double call = cluster->reduce.call_us * 1e-6, fastest = DBL_MAX;
  switch (reduction) {
  case REDUCTION_RING:
    return call + flat_ring(&links, bytes);
  case REDUCTION_TREE:
    return call + tree(&links, bytes);
  case REDUCTION_DOUBLING:
    return call + doubling(&links, bytes);
  case REDUCTION_HIERARCHICAL:
    return call + hierarchical(&links, bytes);
  case REDUCTION_BEST:
    break;
  }
  for (Reduction each = 0; each < REDUCTION_COUNT; each++)
    fastest = fmin(fastest, cluster_reduce_seconds(cluster, each, ranks, bytes));
  return fastest;
}

double cluster_all_reduce_seconds(const Cluster *cluster, int ranks, double bytes) {
  return cluster_reduce_seconds(cluster, (Reduction)cluster->reduce.algorithm, ranks, bytes);
}

double cluster_all_gather_seconds(const Cluster *cluster, int ranks, double bytes) {
  if (ranks <= 1) return 0;
  Links links = links_of(cluster, ranks);
  return tree_latency(&links) + (ranks - 1) * bytes / slowest_rate(&links);
}

const char *reduction_name(Reduction reduction) {
  static const char *const NAMES[] = {"ring", "tree", "doubling", "hierarchical", "best"};
  return NAMES[reduction];
}

/* --- Ops -------------------------------------------------------------------------------------- */

/* Ranks take turns on the cores; those that run at once share the memory, but for ops that alone
 * move more than it gives: they work from a core's own cache. */
static double shared_seconds(const Cluster *cluster, const StepTrace *trace, const TraceOp *op,
                             int ranks) {
  if (cluster->node.cores == 0) return op->seconds;
  double shared = turns(cluster, ranks, trace->threads);
  double at_once = ranks / (cluster_nodes(cluster, ranks) * shared);
  double memory = cluster->node.memory * 1e9;
  bool cached = op->bytes > op->seconds * memory;
  double traffic = memory > 0 && !cached ? at_once * op->bytes / memory : 0;
  return fmax(op->seconds, traffic) * shared;
}

static double roofline_seconds(const Cluster *cluster, bool bf16, const TraceOp *op) {
  double peak = bf16 ? cluster->device.bf16 : cluster->device.f32;
  if (op->flops <= 0 && op->bytes <= 0) return 0;
  double flops = op->flops / (peak * 1e12 * cluster->device.efficiency);
  double bytes = op->bytes / (cluster->device.memory * 1e9 * cluster->device.memory_efficiency);
  return fmax(flops, bytes) + cluster->device.launch_us * 1e-6;
}

double cluster_op_seconds(const Cluster *cluster, const StepTrace *trace, const TraceOp *op,
                          int ranks) {
  if (op->reduces > 0) return 0;
  if (cluster->device.times == OP_TIMES_ROOFLINE) return roofline_seconds(cluster, trace->bf16, op);
  return shared_seconds(cluster, trace, op, ranks);
}
