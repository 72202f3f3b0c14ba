#include "data/build/looks.h"

#include <string.h>

static const PackLook LOOKS[] = {
    {"comic", "flat colours and black ink lines",
     "format=gbrp,bilateral=sigmaS=5:sigmaR=0.10,bilateral=sigmaS=5:sigmaR=0.10,"
     "format=yuv444p,split[a][b];[a]bilateral=sigmaS=4:sigmaR=0.06:planes=7,eq=saturation=1.5:"
     "contrast=1.1:brightness=0.02,lutyuv=y='36*floor(val/36)+36*pow(mod(val\\,36)/36\\,"
     "4)/(pow(mod(val\\,36)/36\\,4)+pow(1-mod(val\\,36)/36\\,4))'[p];[b]format=gray,"
     "split[c][d];[c]gblur=sigma=0.9[c1];[d]gblur=sigma=2.0[d1];"
     "[c1][d1]blend=all_expr='clip(255+48*(A-0.99*B+0.6)\\,24\\,255)',gblur=sigma=0.4,"
     "format=gbrp[l];[p]format=gbrp[q];[q][l]blend=all_mode=multiply,format=rgb24"},
    {"ink", "black ink and two grey washes on warm paper",
     "format=gbrp,bilateral=sigmaS=5:sigmaR=0.10,bilateral=sigmaS=5:sigmaR=0.10,format=gray,"
     "split=3[a][b][m];[m]gblur=sigma=24[m1];[a]gblur=sigma=0.8,bilateral=sigmaS=5:"
     "sigmaR=0.1[a1];[a1][m1]blend=all_expr='255*(0.28+0.36/(1+exp(-0.22*(A+0.5*(118-B)-62)))+"
     "0.36/(1+exp(-0.22*(A+0.5*(118-B)-112))))'[t];[b]split[c][d];[c]gblur=sigma=0.9[c1];"
     "[d]gblur=sigma=2.0[d1];[c1][d1]blend=all_expr='clip(255+56*(A-0.99*B+0.4)\\,0\\,255)',"
     "gblur=sigma=0.4[l];[t][l]blend=all_mode=multiply,format=gbrp,lutrgb=r='26+226*val/255':"
     "g='24+222*val/255':b='34+200*val/255',format=rgb24"},
    {"pop", "poster in five colours from navy to cream, ink lines",
     "format=gbrp,bilateral=sigmaS=6:sigmaR=0.12,bilateral=sigmaS=6:sigmaR=0.10,format=gray,"
     "split[a][b];[a]gblur=sigma=0.8,lut=y='51*floor(val/51)+51*pow(mod(val\\,51)/51\\,"
     "6)/(pow(mod(val\\,51)/51\\,6)+pow(1-mod(val\\,51)/51\\,6))',format=gbrp,"
     "curves=r='0/0.10 0.2/0.24 0.4/0.86 0.6/0.98 0.8/1.0 1/1.0':g='0/0.06 0.2/0.12 0.4/0.18 "
     "0.6/0.52 0.8/0.86 1/0.98':b='0/0.24 0.2/0.46 0.4/0.42 0.6/0.28 0.8/0.40 1/0.88'[p];"
     "[b]split[c][d];[c]gblur=sigma=0.9[c1];[d]gblur=sigma=2.2[d1];"
     "[c1][d1]blend=all_expr='clip(255+48*(A-0.99*B+0.6)\\,24\\,255)',gblur=sigma=0.4,"
     "format=gbrp[l];[p][l]blend=all_mode=multiply,format=rgb24"},
    {"watercolour", "soft pale washes that darken at their edges, no lines",
     "format=gbrp,bilateral=sigmaS=6:sigmaR=0.11,bilateral=sigmaS=6:sigmaR=0.11,"
     "median=radius=2,bilateral=sigmaS=5:sigmaR=0.08,format=yuv444p,gblur=sigma=1.4:planes=6,"
     "lutyuv=y='44*floor(val/44)+44*pow(mod(val\\,44)/44\\,2.5)/(pow(mod(val\\,44)/44\\,2.5)+"
     "pow(1-mod(val\\,44)/44\\,2.5))':u='clip(128+1.75*(val-128)\\,0\\,255)':v='clip(128+1.75*"
     "(val-128)\\,0\\,255)',gblur=sigma=0.6,split[a][b];[b]split[c][d];[c]gblur=sigma=0.6:"
     "planes=1[c1];[d]gblur=sigma=2.8:planes=1[d1];[c1][d1]blend=c0_expr='clip(255+4*min(A-B+"
     "4\\,0)\\,140\\,255)':c1_expr=128:c2_expr=128,format=gbrp[e];[a]format=gbrp,lutrgb=r='58+"
     "197*pow(val/255\\,0.85)':g='60+192*pow(val/255\\,0.85)':b='86+154*pow(val/255\\,"
     "0.85)'[w];[w][e]blend=all_mode=multiply,format=rgb24"},
};

int look_count(void) {
  return (int)(sizeof LOOKS / sizeof *LOOKS);
}

const PackLook *look_at(int index) {
  return &LOOKS[index];
}

Status look_find(const char *name, const PackLook **out, Error *error) {
  Text names = {0};
  for (int i = 0; i < look_count(); i++) {
    if (strcmp(LOOKS[i].name, name) == 0) {
      *out = &LOOKS[i];
      text_free(&names);
      return OK;
    }
    text_append(&names, "%s%s", i ? ", " : "", LOOKS[i].name);
  }
  error_set(error, ERROR_USAGE, "pack: --look: unknown look \"%s\"; allowed: %s", name, names.data);
  text_free(&names);
  return ERROR_USAGE;
}

void looks_describe(Text *out) {
  for (int i = 0; i < look_count(); i++)
    text_append(out, "  %-12s %s\n", LOOKS[i].name, LOOKS[i].description);
}
