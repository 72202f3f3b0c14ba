/* A model of a cluster, read from a file (configs/clusters/NAME.yaml), and the times of all-reduces
 * and ops on it.
 *
 * A message of S bytes takes alpha + S / B seconds. Latency alpha and bandwidth B differ for links
 * inside a node (intra-node) and between nodes (inter-node); B includes the time of the additions.
 */
#ifndef CELFORGE_TRAINER_SCALING_CLUSTER_MODEL_H
#define CELFORGE_TRAINER_SCALING_CLUSTER_MODEL_H

#include "base/config/config.h"
#include "trainer/scaling/trace.h"

typedef enum Reduction {
  REDUCTION_RING,
  REDUCTION_TREE,
  REDUCTION_DOUBLING,
  REDUCTION_HIERARCHICAL,
  REDUCTION_COUNT,
  REDUCTION_BEST = REDUCTION_COUNT, /* the fastest of them */
} Reduction;

typedef enum OpTimes { OP_TIMES_MEASURED, OP_TIMES_ROOFLINE } OpTimes;

typedef struct Cluster {
  struct {
    int64_t count, ranks, cores;
    double memory; /* GB/s */
  } node;
  struct {
    int times;         /* an OpTimes */
    double f32, bf16;  /* TFLOP/s */
    double memory;     /* GB/s */
    double efficiency; /* share of the peak that ops reach, and of memory: */
    double memory_efficiency, launch_us;
  } device;
  struct {
    double latency_us, bandwidth; /* GB/s of a rank, one way */
  } intra_node;
  struct {
    double latency_us, bandwidth; /* GB/s of an adapter, one way */
    int64_t adapters;             /* of a node */
  } inter_node;
  struct {
    int algorithm; /* a Reduction */
    double call_us;
    double interference; /* share by which an all-reduce slows down computation */
  } reduce;
  struct {
    double spread;              /* standard deviation of the logarithm */
    double slow_share, slow_by; /* shares */
    double host_ms;
  } step;
  struct {
    double node_read, read, copy, write; /* GB/s */
  } storage;
  struct {
    double node_hours; /* between the failures of a node, mean */
    double restart;    /* seconds */
  } failure;
} Cluster;

extern const ConfigSchema cluster_schema;

/* Loads the file, then applies `changes` ("storage.read=0"). ERROR_USAGE with file, line and
 * column. */
Status cluster_load(const char *path, const char *const *changes, int change_count,
                    Cluster *cluster, Error *error);
/* Accepts a part of one node, or whole nodes up to all of them; ERROR_USAGE otherwise. */

Status cluster_check_ranks(const Cluster *cluster, int ranks, Error *error);
int cluster_nodes(const Cluster *cluster, int ranks);

/* Seconds of an all-reduce of `bytes` over `ranks` (n; g of them on each of N nodes):
 *
 *   ring          2 (n-1) mean alpha of the hops + 2 (n-1)/n S / B     (Patarasuk & Yuan 2009)
 *   tree          2 ceil(log2 n) alpha + 2 S / B, the two directions of two binary trees at once
 *                 (Sanders, Speck & Traff 2009)
 *   doubling      ceil(log2 n) (alpha + S / B), recursive doubling     (Thakur et al. 2005)
 *   hierarchical  ring reduce-scatter and all-gather inside nodes, between them each of g ranks
 *                 reduces S / g with its peers by the faster of ring and tree
 *
 * Trees and doubling use intra-node links first and inter-node links for the last ceil(log2 N)
 * levels. B of a ring or tree over several nodes is that of its slowest link: intra-node, or all
 * adapters of a node together. Where ranks share cores, intra-node links are slower by the number
 * of ranks per core. `reduce.call_us` is added. 0 for one rank. */
double cluster_reduce_seconds(const Cluster *cluster, Reduction reduction, int ranks, double bytes);
/* The same, with the cluster's reduce.algorithm. */
double cluster_all_reduce_seconds(const Cluster *cluster, int ranks, double bytes);
/* Seconds of an all-gather of `bytes` per rank by recursive doubling, ceil(log2 n) alpha + (n-1)
 * bytes / B (Thakur et al. 2005): at the end of each step ranks gather the stop flag. */
double cluster_all_gather_seconds(const Cluster *cluster, int ranks, double bytes);

/* Seconds of an op of `trace` while `ranks` of the cluster compute.
 *
 *   measured   the measured time. Where ranks of a node share its cores and memory (node.cores >
 * 0): at least their traffic at node.memory (except ops that exceed it when alone, which run from a
 * cache), times ranks per core where that is above 1 roofline   max(FLOPs / (peak * efficiency),
 * bytes / (memory * memory_efficiency)) + launch (Williams, Waterman & Patterson 2009) */
double cluster_op_seconds(const Cluster *cluster, const StepTrace *trace, const TraceOp *op,
                          int ranks);

const char *reduction_name(Reduction reduction);

#endif
