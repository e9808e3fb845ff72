/* A packed network of bnn_jax, from its file to logits: no JAX, no Python, no other library.
 *
 *     bnn_network *network;
 *     char error[BNN_ERROR];
 *     if (bnn_open("network.safetensors", NULL, &network, error) != BNN_OK) { puts(error); return 1; }
 *     float logits[1000];
 *     if (bnn_run(network, images, 1, 224, 224, 1, logits, error) != BNN_OK) { puts(error); return 1; }
 *     bnn_close(network);
 *
 * Functions that can fail return a bnn_status, and write why, a sentence with its ending 0, to `error`: room for BNN_ERROR
 * characters, or NULL. Nothing is kept outside of a network, and no exception and no signal leaves a function. An open network
 * is only read: any number of threads may call bnn_run on one at a time. A forked process may go on with it, where no call was
 * under way at the fork. */
#ifndef BNN_RUNTIME_H
#define BNN_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BNN_ERROR 512

typedef struct bnn_network bnn_network;

typedef enum bnn_status {
  BNN_OK = 0,
  BNN_REFUSED = 1,    /* a file, or images, that do not fit: `error` says what was got and what was expected */
  BNN_UNREADABLE = 2, /* the file is not there, or cannot be read; it may be whole */
  BNN_NO_MEMORY = 3
} bnn_status;

/* Opens the network of a file, or of its bytes, which are copied. instructions: one of bnn_instruction_sets; NULL or "": the
 * best one of this processor, or the one that the environment's BNN_INSTRUCTIONS names. */
bnn_status bnn_open(const char *path, const char *instructions, bnn_network **network, char *error);
bnn_status bnn_open_memory(const void *bytes, size_t size, const char *instructions, bnn_network **network, char *error);

/* Gives all memory back. No bnn_run may be under way. NULL: nothing. */
void bnn_close(bnn_network *network);

/* Channels of an image, and numbers of a row of logits. */
int64_t bnn_channels(const bnn_network *network);
int64_t bnn_classes(const bnn_network *network);

/* Height, width and channels of an image after its preprocessing; height and width are 0 where the file does not say: a
 * network that averages over the image takes many. */
void bnn_input_shape(const bnn_network *network, int64_t shape[3]);

/* What is done to an image before the network sees it: JSON as docs/format.md has it, or NULL where the file does not say. */
const char *bnn_preprocessing(const bnn_network *network);

/* The name of a class, or NULL where the file gives none. */
const char *bnn_class_name(const bnn_network *network, int64_t which);

/* The instruction set that the network runs with, and those of this processor, best first, separated by spaces. */
const char *bnn_instructions(const bnn_network *network);
const char *bnn_instruction_sets(void);

/* A digest of the sources that the library was compiled from. */
const char *bnn_sources(void);

/* Whether the network takes images of this height and width. */
bnn_status bnn_check(const bnn_network *network, int64_t height, int64_t width, char *error);

/* Logits, (n, classes), of images (n, height, width, channels), prepared as in training. An image that is not finite gets
 * NaN. threads: how many compute, the calling one counted in; 0: as many as the processor has. An image's logits depend
 * neither on the batch nor on the threads. The first call allocates memory that later ones use again. */
bnn_status bnn_run(const bnn_network *network, const float *images, int64_t n, int64_t height, int64_t width, int threads,
                   float *logits, char *error);

/* The same of bytes, 0 to 255, normalized as the file states; refused where it does not. */
bnn_status bnn_run_bytes(const bnn_network *network, const uint8_t *images, int64_t n, int64_t height, int64_t width,
                         int threads, float *logits, char *error);

#ifdef __cplusplus
}
#endif

#endif
