/* Reads any bytes as a PNG image: rejected with a message that names the file, or every pixel is
 * there. libpng itself is not instrumented. */
#include <string.h>

#include "data/video/image.h"
#include "tests/fuzz/support/fuzz.h"

enum { MAX_PIXELS = 1 << 22 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  Dice dice = dice_new(seed);
  return mutate_png(data, size, room, &dice);
}

/* Reads every byte, which AddressSanitizer checks, and resizes to a few pixels. */
static void use(const Image *image) {
  Error error;
  Image small;
  unsigned sum = 0;
  size_t pixels = (size_t)image->width * (size_t)image->height;
  require(image->width > 0 && image->height > 0);
  if (pixels > MAX_PIXELS) return;
  for (size_t i = 0; i < pixels * 3; i++) sum += image->pixels[i];
  require(sum <= pixels * 3 * 255);
  require(image_new(3, 2, &small, &error) == OK);
  image_resize(image, &small);
  image_free(&small);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  Image image;
  int descriptor;
  const char *path = scratch_file(".png", data, size, &descriptor);
  Status status = image_read_png(path, &image, &error);
  if (status == OK)
    use(&image);
  else
    require(!image.pixels && error.status == status && strstr(error.message, path));
  image_free(&image);
  return 0;
}
