/* The program's version, printed by --version and stored in exported files and checkpoints. */
#ifndef CELFORGE_BASE_VERSION_H
#define CELFORGE_BASE_VERSION_H

#define CELFORGE_VERSION "0.2.0"

#endif
