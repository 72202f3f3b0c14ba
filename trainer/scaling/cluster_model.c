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
    INT("node.count", node.count, 1, 65536, "1", "number of nodes"),
    INT("node.ranks", node.ranks, 1, 1024, "1", "ranks (GPUs) per node"),
    INT("node.cores", node.cores, 0, 65536, "0",
        "cores shared by the ranks of a node; 0: each rank has its own device"),
    REAL("node.memory", node.memory, 0, 1e6, "0",
         "memory bandwidth shared by the ranks of a node, GB/s; 0: unlimited"),

    CHOICE("device.times", device.times, "measured|roofline", "roofline",
           "time of an op: measured on this machine, or computed from FLOPs, bytes and the keys "
           "below"),
    REAL("device.f32", device.f32, 1e-6, 1e6, "1", "peak in f32, TFLOP/s"),
    REAL("device.bf16", device.bf16, 1e-6, 1e6, "1", "peak in bf16, TFLOP/s"),
    REAL("device.efficiency", device.efficiency, 1e-4, 1, "0.5",
         "share of the peak that ops reach"),
    REAL("device.memory", device.memory, 1e-6, 1e6, "1", "memory bandwidth, GB/s"),
    REAL("device.memory_efficiency", device.memory_efficiency, 1e-4, 1, "0.8",
         "share of the memory bandwidth that ops reach"),
    REAL("device.launch_us", device.launch_us, 0, 1e6, "0",
         "launch overhead of an op, microseconds"),

    REAL("intra_node.latency_us", intra_node.latency_us, 0, 1e9, "0",
         "latency of a message inside a node, microseconds"),
    REAL("intra_node.bandwidth", intra_node.bandwidth, 1e-6, 1e9, "1",
         "bandwidth of a rank inside its node, one way, as reached by all-reduces, GB/s"),
    REAL("inter_node.latency_us", inter_node.latency_us, 0, 1e9, "0",
         "latency of a message between nodes, microseconds"),
    REAL("inter_node.bandwidth", inter_node.bandwidth, 1e-6, 1e9, "1",
         "bandwidth of a network adapter, one way, as reached by all-reduces, GB/s"),
    INT("inter_node.adapters", inter_node.adapters, 1, 1024, "1", "network adapters per node"),

    CHOICE("reduce.algorithm", reduce.algorithm, "ring|tree|doubling|hierarchical|best", "best",
           "all-reduce algorithm; best: the fastest for the message size"),
    REAL("reduce.call_us", reduce.call_us, 0, 1e9, "0",
         "fixed overhead of an all-reduce, microseconds"),
    REAL("reduce.interference", reduce.interference, 0, 0.99, "0",
         "share by which an all-reduce slows down computation"),

    REAL("step.spread", step.spread, 0, 10, "0",
         "standard deviation of the logarithm of a rank's computation time per step"),
    REAL("step.slow_share", step.slow_share, 0, 1, "0",
         "share of a rank's steps in which it is a straggler"),
    REAL("step.slow_by", step.slow_by, 0, 1000, "0",
         "how much longer a straggler computes, as a share of the step"),
    REAL("step.host_ms", step.host_ms, 0, 1e9, "0",
         "time of each step beside its ops, on any number of ranks, milliseconds"),

    REAL("storage.node_read", storage.node_read, 0, 1e9, "0",
         "read rate of one node, GB/s; 0: unlimited"),
    REAL("storage.read", storage.read, 0, 1e9, "0",
         "read rate of all nodes together, GB/s; 0: unlimited"),
    REAL("storage.copy", storage.copy, 0, 1e9, "0",
         "rate of the checkpoint copy, for which all ranks wait, GB/s; 0: instant"),
    REAL("storage.write", storage.write, 0, 1e9, "0",
         "rate of the background checkpoint write, GB/s; 0: instant"),

    REAL("failure.node_hours", failure.node_hours, 0, 1e12, "0",
         "mean time between failures of one node, hours; 0: no failures"),
    REAL("failure.restart", failure.restart, 0, 1e9, "0",
         "time from a failure to the next step, seconds"),
};

static const ConfigRenamed RENAMED[] = {
    {"near", "intra_node"},
    {"far", "inter_node"},
    {"near.latency_us", "intra_node.latency_us"},
    {"near.bandwidth", "intra_node.bandwidth"},
    {"far.latency_us", "inter_node.latency_us"},
    {"far.bandwidth", "inter_node.bandwidth"},
    {"far.adapters", "inter_node.adapters"},
};

const ConfigSchema cluster_schema = {.keys = KEYS,
                                     .count = sizeof KEYS / sizeof *KEYS,
                                     .option = "--cluster-set",
                                     .renamed = RENAMED,
                                     .renamed_count = sizeof RENAMED / sizeof *RENAMED};

Status cluster_load(const char *path, const char *const *changes, int change_count,
                    Cluster *cluster, Error *error) {
  Status status = OK;
  Cluster loaded;
  ConfigSources *sources = config_sources_new();
  TRY(config_set_defaults(&cluster_schema, &loaded, error));
  TRY(config_load(&cluster_schema, path, &loaded, sources, error));
  for (int i = 0; i < change_count; i++)
    TRY(config_assign(&cluster_schema, changes[i], &loaded, sources, error));
  if (loaded.device.times == OP_TIMES_ROOFLINE && loaded.node.cores > 0)
    TRY(config_error(sources, "node.cores", error,
                     "%lld shared cores need device.times: measured; allowed: 0",
                     (long long)loaded.node.cores));
  if (loaded.step.slow_share > 0 && loaded.step.slow_by <= 0)
    TRY(config_error(sources, "step.slow_share", error, "%g needs step.slow_by above 0",
                     loaded.step.slow_share));
  *cluster = loaded;
done:
  config_sources_free(sources);
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

/* The links of an all-reduce, in seconds and bytes per second. */
typedef struct Links {
  int ranks, nodes, local; /* local: ranks per node */
  double intra_alpha, intra_rate, inter_alpha;
  double inter_rate; /* all adapters of a node */
} Links;

/* Ranks per node divided by the ranks that its cores can run at once; at least 1. */
static double turns(const Cluster *cluster, int ranks, int64_t threads) {
  int local = ranks / cluster_nodes(cluster, ranks);
  if (cluster->node.cores == 0) return 1;
  return fmax(1, (double)(local * threads) / (double)cluster->node.cores);
}

/* Ranks that share cores also share them for their messages. */
static Links links_of(const Cluster *cluster, int ranks) {
  int nodes = cluster_nodes(cluster, ranks);
  return (Links){
      .ranks = ranks,
      .nodes = nodes,
      .local = ranks / nodes,
      .intra_alpha = cluster->intra_node.latency_us * 1e-6,
      .intra_rate = cluster->intra_node.bandwidth * 1e9 / turns(cluster, ranks, 1),
      .inter_alpha = cluster->inter_node.latency_us * 1e-6,
      .inter_rate = cluster->inter_node.bandwidth * (double)cluster->inter_node.adapters * 1e9,
  };
}

static int levels(int count) {
  int bits = 0;
  while ((1 << bits) < count) bits++;
  return bits;
}

/* The sum of latencies along a path of a tree over all ranks. */
static double tree_latency(const Links *links) {
  return levels(links->local) * links->intra_alpha + levels(links->nodes) * links->inter_alpha;
}

/* The bandwidth of the slowest link that every byte passes. */
static double slowest_rate(const Links *links) {
  if (links->nodes == 1) return links->intra_rate;
  if (links->local == 1) return links->inter_rate;
  return fmin(links->intra_rate, links->inter_rate);
}

/* A ring all-reduce of `count` members; `alpha` is the mean latency of a hop. */
static double ring(int count, double bytes, double alpha, double rate) {
  return 2.0 * (count - 1) * (alpha + bytes / count / rate);
}

static double flat_ring(const Links *links, double bytes) {
  int n = links->ranks, inter_hops = links->nodes > 1 ? links->nodes : 0;
  double alpha = ((n - inter_hops) * links->intra_alpha + inter_hops * links->inter_alpha) / n;
  return ring(n, bytes, alpha, slowest_rate(links));
}

static double tree(const Links *links, double bytes) {
  return 2 * (tree_latency(links) + bytes / slowest_rate(links));
}

/* On the inter-node levels all ranks of a node send at once, and share its adapters. */
static double doubling(const Links *links, double bytes) {
  return tree_latency(links) + levels(links->local) * bytes / links->intra_rate +
         levels(links->nodes) * bytes * links->local / links->inter_rate;
}

static double hierarchical(const Links *links, double bytes) {
  int nodes = links->nodes, local = links->local;
  double inside = local > 1 ? ring(local, bytes, links->intra_alpha, links->intra_rate) : 0;
  if (nodes == 1) return inside;
  double part = bytes / local, rate = links->inter_rate / local;
  double by_ring = ring(nodes, part, links->inter_alpha, rate);
  double by_tree = 2 * (levels(nodes) * links->inter_alpha + part / rate);
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

/* The time of a measured op on shared cores. Ranks that run at once share the memory bandwidth,
 * except in ops that move more than it when alone: these run from a cache. */
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
