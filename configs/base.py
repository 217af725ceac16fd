"""Every field once, with its unit and default: the values shared by all versions.

A version is a file beside this one that changes some of them. Setting an unknown field is an
error, and so is a field that nothing reads.
"""

import ml_collections


def get_config():
    """The shared values, as a locked ConfigDict."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # seed of parameters, patches and augmentation
    config.data = _data()
    config.synthetic = _synthetic()
    config.preprocess = _preprocess()
    config.augment = _augment()
    config.model = _model()
    config.loss = _loss()
    config.optimizer = _optimizer()
    config.schedule = _schedule()
    config.reduction = _reduction()
    config.plateau = _plateau()
    config.parts = _parts()
    config.average = _average()
    config.noise = _noise()
    config.stages = ml_collections.ConfigDict()  # see `add_stage`
    config.train = _train()
    config.validate = _validate()
    config.postprocess = _postprocess()
    config.checkpoint = _checkpoint()
    config.devices = _devices()
    return config.lock()


def _data():
    """Where volumes come from, and how patches are drawn."""
    data = ml_collections.ConfigDict()
    data.name = "folder"  # or 'synthetic': generated scrolls, see `synthetic`
    data.root = ""  # folder with images and labels (and train.csv with id,scroll_id)
    data.images = ""  # name of the image folder in it; '' finds train_images, imagesTr or images
    data.labels = ""  # name of the label folder in it; '' finds the matching one
    # Label values are any integers; 'rest' in one of the three means all unnamed values.
    data.background = (0,)  # label values that are background
    data.foreground = (1,)  # label values that are foreground
    data.ignore = (2,)  # values that are unlabelled: masked, but for a 2 that is named elsewhere
    # Several classes instead of data.foreground: name=label values, as ("sheet=1", "ink=3,4"), and
    # as many model.out_channels. Softmax, or sigmoids where classes share values. A prediction
    # holds the first value of each.
    data.classes = ()
    data.fold = "0"  # the fold that is held out; 'all' for each in turn, 'none' for none
    data.folds = 5
    data.spacing = ()  # (z, y, x) of the voxels of all volumes; () as table, JSON or files say
    data.target_spacing = ()  # (z, y, x) at which the network sees them; () for the median
    data.resample = "auto"  # volumes of another spacing to the run's; 'never' refuses them
    data.group = "scroll_id"  # keeps each scroll in one fold; '' shuffles single volumes
    data.split_seed = 0  # seed of the folds
    data.patch = (128, 128, 128)  # voxels: depth, height, width
    data.batch = 2  # patches per step of the network
    data.random_batch = ()  # batch sizes from which each epoch draws, instead of data.batch
    data.patches_per_volume = 1  # patches of each volume per epoch
    data.foreground_share = 1 / 3  # probability that a patch is placed to hold foreground
    data.balance_target = 0.0  # target share of foreground among labelled voxels; 0 for none
    data.threads = 4  # threads that read ahead
    data.cache = ""  # folder for decoded volumes; '' is WORKDIR/cache
    data.cache_gb = 100.0  # GiB of disk space for decoded and resampled volumes
    return data


def _synthetic():
    """Generated scrolls; read when data.name='synthetic'."""
    synthetic = ml_collections.ConfigDict()
    synthetic.volumes = 10
    synthetic.size = 96  # voxels along each axis
    synthetic.seed = 0
    return synthetic


def _preprocess():
    """How intensities are normalised."""
    preprocess = ml_collections.ConfigDict()
    preprocess.name = "percentile"  # to [0, 1]; 'zscore' to mean 0 and standard deviation 1
    preprocess.low_percentile = 0.5  # clipped below, percent
    preprocess.high_percentile = 99.5  # clipped above, percent
    preprocess.per_volume = False  # fit to each volume by itself, for scanners that differ
    # With per_volume, the voxels that count: 'all', 'box' those in the smallest box that holds all
    # that are not zero, 'nonzero' those that are not zero, which stays 0.
    preprocess.region = "all"
    return preprocess


def _augment():
    """Probabilities per patch, and ranges; intensities of each channel change by their own draw."""
    augment = ml_collections.ConfigDict()
    augment.flip = 0.5  # for each axis
    augment.rotate90 = 0.5  # 0 to 3 quarter turns in a random plane of equal axes
    augment.rotate = 0.0  # any angle
    augment.scale = 0.0
    augment.noise = 0.15
    augment.blur = 0.0
    augment.brightness = 0.15
    augment.contrast = 0.15
    augment.low_resolution = 0.0
    augment.gamma_inverted = 0.0
    augment.gamma = 0.0
    augment.in_plane_only = False  # exclude depth from rotation and scaling
    augment.rotate_degrees = (-30.0, 30.0)
    augment.scale_range = (0.7, 1.4)  # step between samples, voxels
    augment.noise_range = (0.0, 0.1)  # standard deviation, share of the image's own
    augment.blur_range = (0.5, 1.0)  # sigma, voxels
    augment.brightness_range = (0.75, 1.25)  # factor
    augment.contrast_range = (0.75, 1.25)  # factor
    augment.low_resolution_range = (0.5, 1.0)  # share of the resolution
    augment.gamma_range = (0.7, 1.5)  # exponent
    return augment


def _model():
    """The network: see `jax_seg/models/unet.py`."""
    model = ml_collections.ConfigDict()
    model.name = "unet"  # or 'residual_unet', see configs/residual_m.py
    model.filters = 32  # channels of the finest level
    model.poolings = 4  # resolution levels below the finest
    model.in_channels = 0  # of the images; 0 for as many as they have
    model.out_channels = 1
    model.dimensions = 3
    # Finest levels without pooling along depth: one per factor 2 of spacing.
    model.planar_levels = 0
    # Per level, finest first; () for the default.
    model.features = ()  # channels, beginning with filters; () doubles them
    model.kernels = ()  # sizes, as ((1, 3, 3), (3, 3, 3)); () for 3
    model.strides = ()  # from the level above, as ((1, 1, 1), (1, 2, 2)); () for 2
    model.convolutions = ()  # of the encoder: () for 2, or residual blocks, () for 1, 3, 4, 6, 6, …
    model.decoder_convolutions = ()  # () for 2, or 1 of residual_unet
    model.downsample = "max"  # pooling; or 'stride', of a level's first convolution
    model.affine = False  # a gain and an offset per channel in the norms
    model.slope = 0.01  # of the leaky ReLUs for negative values
    model.dtype = "float32"  # compute type; 'bfloat16' is faster on recent GPUs
    model.deep_supervision = 0  # extra heads on coarser levels
    model.foreground_prior = 0.5  # share of foreground that the first logits express
    model.rematerialise = False  # less memory for about a third more computation
    return model


def _loss():
    """Weights of the terms, and their options."""
    loss = ml_collections.ConfigDict()
    loss.weights = weights = ml_collections.ConfigDict()  # 0 omits the term
    weights.dice = 0.5
    weights.cross_entropy = 0.0
    weights.focal = 0.3
    weights.variance = 0.0
    weights.entropy = 0.0
    weights.boundary = 0.0
    weights.cldice = 0.0
    weights.skeleton_recall = 0.0
    weights.connectivity = 0.0
    loss.focal_alpha = 0.5  # weight of foreground; background has 1 - alpha
    loss.focal_gamma = 2.0
    loss.foreground_weight = 1.0  # class weights of the focal term
    loss.background_weight = 1.0
    loss.dice_smooth = 1e-5  # added to both sides of the quotient, voxels
    loss.variance_target_entropy = 0.5  # nats of entropy below which its second part applies
    loss.entropy_target_entropy = 0.3  # nats of entropy below which the penalty applies
    loss.boundary_smooth = 1e-5  # added to the sum of the weights, voxels
    loss.cldice_iterations = 3  # sheets of up to 2 (iterations + 1) voxels have a skeleton
    loss.cldice_smooth = 1e-5
    loss.skeleton_recall_iterations = 3
    loss.skeleton_recall_smooth = 1e-5
    loss.level_weights = ()  # for deep supervision, finest first; () halves each level
    return loss


def _optimizer():
    """The update rule; the schedule sets its learning rate."""
    optimizer = ml_collections.ConfigDict()
    optimizer.name = "sgd"  # or 'adamw', 'adam', 'muon'
    optimizer.momentum = 0.99  # for sgd and muon
    optimizer.nesterov = True
    optimizer.weight_decay = 0.01  # decoupled, per unit of learning rate
    optimizer.clip_norm = 0.5  # global norm of the gradients; 0 for no clipping
    return optimizer


def _schedule():
    """Schedule of the learning rate, per epoch."""
    schedule = ml_collections.ConfigDict()
    schedule.name = "cosine_restarts"  # or 'cosine', 'polynomial', 'constant', 'plateau'
    schedule.learning_rate = 1e-4
    schedule.warmup_epochs = 5
    schedule.t_0 = 10  # cosine_restarts: epochs of the first cycle
    schedule.t_mult = 2  # cosine_restarts: growth of the cycles
    schedule.eta_min = 1e-6  # smallest rate of the cosines
    schedule.power = 0.9  # exponent of 'polynomial'
    return schedule


def _reduction():
    """Reductions of the learning rate on plateaus; read when schedule.name='plateau'."""
    reduction = ml_collections.ConfigDict()
    reduction.patience = 5  # epochs without improvement before the rate is reduced
    reduction.factor = 0.5
    reduction.threshold = 1e-4  # relative improvement that counts
    reduction.cooldown = 0  # epochs after a reduction that do not count
    reduction.min_scale = 0.0  # smallest share of the scheduled rate
    return reduction


def _plateau():
    """The response to bad epochs."""
    plateau = ml_collections.ConfigDict()
    plateau.rule = "aggressive"  # rule for interventions; or 'escape', 'conservative', 'capped'
    plateau.maximum_scale = 0.0  # highest factor on the rate; 0 for the rule's own limit
    plateau.worse_epochs = 3  # consecutive bad epochs that make a plateau; 0 for never
    plateau.rollback_fraction = 0.15  # loss above the best that is rolled back at once; 0 for never
    plateau.substantial_progress = 0.0  # drop since the last plateau that skips intervention
    plateau.threshold = 0.0  # smallest difference of losses that counts
    plateau.noise_factor = 1.0  # the same, in standard errors of the validation loss
    plateau.patience = 50  # epochs without improvement before the run ends; 0 for never
    return plateau


def _parts():
    """Parts of the network, by parameter path."""
    parts = ml_collections.ConfigDict()
    parts.all = ml_collections.ConfigDict()
    parts.all.pattern = ""  # regular expression; a parameter joins the first that matches
    parts.all.rate = 1.0  # factor on the learning rate; 0 freezes the part
    return parts


def _average():
    """Averages of the parameters."""
    average = ml_collections.ConfigDict()
    average.swa_start = 40  # epoch from which the learning rate is constant and weights averaged
    average.swa_every = 5  # epochs between the averaged weights; 0 for no SWA
    average.swa_learning_rate = 5e-5
    average.ema_decay = 0.0  # decay per step; 0 for no EMA
    return average


def _noise():
    """Noise on weights and gradients."""
    noise = ml_collections.ConfigDict()
    noise.start_epoch = 30  # first epoch with weight noise
    noise.every = 10  # epochs
    noise.std = 1e-3  # standard deviation at first; 0 for no weight noise
    noise.decay = 0.9  # factor on the standard deviation, each time
    noise.patterns = ("decoder", "output")  # parameter paths that receive it
    noise.gradient_eta = 0.0  # scale of gradient noise; 0 for none
    return noise


def _train():
    """Length, accumulation, and where a run starts from."""
    train = ml_collections.ConfigDict()
    train.epochs = 300
    train.accumulate = 1  # batches whose gradients make one update
    train.minutes = 0.0  # end after the epoch in which this time has passed; 0 for no limit
    # Updates of an epoch: 'data', one pass over its patches; 'minutes', so many that all epochs
    # together take train.minutes, with what compiles and judges; or their number, such as '250'.
    train.epoch_length = "data"
    train.log_every = 0  # updates between events of single updates; 0 for epochs only
    train.start_from = ""  # WORKDIR, WORKDIR@swa, WORKDIR@STEP whose weights initialise a new run
    train.start_stage = ""  # stage to start with; '' for the first
    return train


def _validate():
    """How a run is validated."""
    validate = ml_collections.ConfigDict()
    # Selects the best: 'loss' on fixed patches, or 'dice' or 'iou' on whole volumes.
    validate.metric = "loss"
    validate.patches_per_volume = 1  # fixed patches
    validate.volumes_every = 10  # epochs between evaluations of whole volumes; 0 for the last only
    validate.overlap = 0.5  # overlap of neighbouring windows, a share
    validate.windows = 1  # windows per call of the network, on each device
    validate.threshold = 0.5  # threshold on the probability
    validate.background_target = ()  # (lowest, highest) share to report on; () for the labels' own
    return validate


def _postprocess():
    """Post-processing of predictions."""
    postprocess = ml_collections.ConfigDict()
    postprocess.steps = ("remove_small:voxels=100", "fill_holes:voxels=50")  # after the threshold
    return postprocess


def _checkpoint():
    """When checkpoints are saved, and how many are kept."""
    checkpoint = ml_collections.ConfigDict()
    checkpoint.keep = 1  # latest checkpoints to keep besides the best
    checkpoint.minutes = 10.0  # minutes between saves within an epoch; 0 saves after epochs only
    return checkpoint


def _devices():
    """The devices that share the work. The global batch is data.batch, however many there are."""
    devices = ml_collections.ConfigDict()
    devices.count = 0  # devices of each process; 0 for as many as divide every batch
    devices.space = 1  # devices that share the depth of a patch; the others share the batch
    return devices


def add_stage(
    config, name, *, epochs, loss_weights=None, batch=0, accumulate=0, rates=None, schedule=None
):
    """Add a span of epochs (first, last) in which the given values replace the run's.

    Values of 0 or None keep the run's own. With `schedule` (entries of config.schedule) the
    learning rate restarts with the stage. Stages cover all epochs, without gap or overlap.
    """
    with config.unlocked():
        config.stages[name] = ml_collections.ConfigDict(
            {
                "epochs": tuple(epochs),
                "loss_weights": loss_weights or {},
                "batch": batch,
                "accumulate": accumulate,
                "rates": rates or {},
                "schedule": schedule or {},
            }
        )


def shrink(config, arg):
    """`config` unchanged, or shrunk for a laptop with generated volumes when `arg` is 'demo'.

    Epochs and everything that counts epochs scale together, which preserves the
    version's schedule.

    Raises:
      ValueError: any other `arg`.
    """
    if not arg:
        return config
    if arg != "demo":
        raise ValueError(
            f"The configuration's argument is ':{arg}'; the only valid one is ':demo'."
        )
    epochs = 24
    scale = epochs / config.train.epochs

    def scaled(epochs):
        return max(round(epochs * scale), 1) if epochs else 0

    config.train.update(epochs=epochs, epoch_length="data")
    first = 0
    for stage in sorted(config.stages.values(), key=lambda stage: stage.epochs):
        last = round((stage.epochs[1] + 1) * scale) - 1
        stage.epochs, first = (first, last), last + 1
    config.schedule.warmup_epochs = scaled(config.schedule.warmup_epochs)
    config.schedule.t_0 = scaled(config.schedule.t_0)
    config.average.swa_start = scaled(config.average.swa_start)
    config.average.swa_every = scaled(config.average.swa_every)
    config.noise.start_epoch = scaled(config.noise.start_epoch)
    config.noise.every = scaled(config.noise.every)
    config.reduction.patience = scaled(config.reduction.patience)
    config.plateau.worse_epochs = scaled(config.plateau.worse_epochs)
    config.plateau.patience = scaled(config.plateau.patience)
    config.validate.volumes_every = scaled(config.validate.volumes_every)
    config.data.update(
        name="synthetic",
        root="",
        patch=(48, 48, 48),
        batch=2,
        patches_per_volume=4,
        threads=2,
        folds=4,
    )
    config.model.update(filters=8, poolings=2)
    return config
