/* Small datasets in temporary folders, with clips whose bytes follow from their index. */
#ifndef CELFORGE_TESTS_SUPPORT_DATASET_H
#define CELFORGE_TESTS_SUPPORT_DATASET_H

#include "data/dataset/dataset.h"

/* Creates a new folder. */
char *temporary_folder(void);
/* Removes the folder with its contents and frees the path. */
void remove_folder(char *path);
/* Returns the path of a file in the folder, in one of 64 static buffers in turn. */
const char *inside(const char *folder, const char *name);

/* 3 frames, source 6x8 with 3 channels, target 12x16, 25 frames per second, 4 clips per shard. */
DatasetSpec small_spec(void);
/* The same with the source (side 0) or the target (side 1) alone. */
DatasetSpec one_sided_spec(int side);
/* Computes the bytes of one side of clip `index`. */
void clip_bytes(int64_t index, int side, uint8_t *out, size_t size);
/* Adds clips first .. first+count-1. */
void add_clips(DatasetWriter *writer, const ClipShape *shape, int64_t first, int64_t count);
/* Writes a dataset into `folder`/data. */
void make_dataset(const char *folder, const DatasetSpec *spec, int64_t clips);

/* Inverts the byte at `offset`. */
void flip_byte(const char *path, int64_t offset);
bool is_there(const char *path); /* in support_media.c */
int64_t file_bytes(const char *path);
/* Returns the offset of the first `needle` in the file; fails the test if there is none. */
int64_t find_bytes(const char *path, const void *needle, size_t size);
void assert_same_file(const char *a, const char *b);
/* Asserts that the message contains all texts; NULL ends the list. */
void assert_says(const Error *error, ...);

#endif
