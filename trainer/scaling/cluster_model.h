/* A cluster, as a file describes it (configs/clusters/NAME.yaml), and what an all-reduce and an op
 * take on it.
 *
 * A message of S bytes takes alpha + S / B seconds: a latency and a bandwidth per kind of link,
 * near (inside a node) and far (between nodes); what adding two numbers takes is part of B. */
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
    double efficiency; /* the share of f32 or bf16 that ops reach, and of memory: */
    double memory_efficiency, launch_us;
  } device;
  struct {
    double latency_us, bandwidth; /* GB/s of a rank, one way */
  } near;
  struct {
    double latency_us, bandwidth; /* GB/s of an adapter, one way */
    int64_t adapters;             /* of a node */
  } far;
  struct {
    int algorithm; /* a Reduction */
    double call_us;
    double interference; /* share by which computing slows down meanwhile */
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

/* The file, then `changes` ("storage.read=0") over it. ERROR_USAGE with file, line and column. */
Status cluster_load(const char *path, const char *const *changes, int change_count,
                    Cluster *cluster, Error *error);
/* Ranks fill nodes one after the other: fewer than a node holds, or whole nodes, as many as there
 * are; ERROR_USAGE otherwise. */
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
 * The trees and doubling take near links first, far ones for the last ceil(log2 N) levels. A ring
 * or tree over nodes goes at the pace of its slowest link: near, or all adapters of a node
 * together. Near links are slower by the ranks there are for each core, where they share cores.
 * `reduce.call_us` comes on top. One rank: 0. */
double cluster_reduce_seconds(const Cluster *cluster, Reduction reduction, int ranks, double bytes);
/* By the cluster's reduce.algorithm. */
double cluster_all_reduce_seconds(const Cluster *cluster, int ranks, double bytes);
/* Every rank's `bytes` to every rank by recursive doubling, ceil(log2 n) alpha + (n-1) bytes / B
 * (Thakur et al. 2005): the step's agreement whether to stop. */
double cluster_all_gather_seconds(const Cluster *cluster, int ranks, double bytes);

/* Seconds of an op of `trace` when `ranks` of the cluster compute.
 *
 *   measured   the trace's own time; where ranks of a node share its cores and memory
 *              (node.cores > 0) no less than their traffic at node.memory takes (but for ops that
 *              alone exceed it, from a cache), times ranks over cores where there are more
 *   roofline   max(FLOPs / (peak * efficiency), bytes / (memory * memory_efficiency)) + launch
 *              (Williams, Waterman & Patterson 2009) */
double cluster_op_seconds(const Cluster *cluster, const StepTrace *trace, const TraceOp *op,
                          int ranks);

const char *reduction_name(Reduction reduction);

#endif
