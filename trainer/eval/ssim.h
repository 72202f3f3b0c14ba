/* Structural similarity of two planes of grey levels (Wang, Bovik, Sheikh, Simoncelli: "Image
 * Quality Assessment: From Error Visibility to Structural Similarity", TIP 2004). */
#ifndef CELFORGE_TRAINER_EVAL_SSIM_H
#define CELFORGE_TRAINER_EVAL_SSIM_H

/* Returns the mean over all valid 11 x 11 windows (Gaussian of deviation 1.5; K1 0.01, K2 0.03,
 * grey levels 0 to 255) of planes f64 [H,W]. A plane smaller than the window uses a window of its
 * own size. */
double ssim_planes(const double *a, const double *b, int height, int width);

/* Returns how much of the structure of `a` is left in `b`: the correlation of both in each of these
 * windows, cov / (dev_a max(dev_b, 1)), averaged with the weights dev_a over the windows of dev_a
 * >= 1 grey level. This is SSIM's comparison of structure without the constant that makes it 1
 * where `b` is blank. 1 for equal planes, also after changes of brightness and contrast; 0 if `b`
 * is blank; 1 if `a` has no structure. */
double structure_planes(const double *a, const double *b, int height, int width);

#endif
