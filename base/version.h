/* The program's version, as --version prints it and as exported files and checkpoints carry it. */
#ifndef CELFORGE_BASE_VERSION_H
#define CELFORGE_BASE_VERSION_H

#define CELFORGE_VERSION "0.2.0"

#endif
