"""The words that other scripts use for what is here, as tables. Imports nothing.

A row is our word, then theirs without case, dashes and underscores.
"""

# Our word is a key, or KEY=VALUE.
KEYS = """
depth = numblocks nblocks blocks numlayers nlayers layers layer numresblocks blocksperstage
    numstages nlayer nblock
width = chwidth channels ch basewidth inplanes planes numfilters nfilters filters basechannels
    hiddendim hiddensize hidden outchannels channelsout nf widthpergroup widthfactor numchannels
    nchannels initchannels widenfactor
block = layertype blocktype blockname layertypes
norm = bn batchnorm usebn usebatchnorm normlayer normalization normalisation normtype
    batchnormalization norms
shortcut = residual skip skips skipconnection skipconnections useskip useresidual useshortcut
    shortcuts residuals residualconnections
init = weightinit initialization initialisation initializer initmethod inittype
model = arch architecture net network modelname backbone modeltype archname netname modelarch
dataset = data datasetname ds datasets dset datatype dataname
dataset.root = datadir datasetpath root dataroot datapath datasetroot datasetdir datafolder
    datasetfolder dataloc
dataset.list = csv csvfile manifest annotations annotationfile labelsfile filelist
dataset.test_fraction = testsize testratio testfrac
dataset.resize = imagesize imgsize inputsize imgsz size resizeto imageresize cropsize
dataset.mean = means pixelmean imagemean
dataset.fraction = datafraction trainfraction trainingfraction datasetfraction fractionoftrain
    trainratio datapercent percentdata trainsize trainsubset subsetfraction subsetratio subsample
dataset.per_class = samplesperclass imagesperclass nperclass numperclass shots kshot nshot fewshot
    nshots examplesperclass
dataset.std = stds pixelstd imagestd
augment = augmentation aug dataaugmentation transform transforms augmentations traintransform augs
    dataaug
augment.flip = hflip randomflip horizontalflip mirror fliplr
augment.crop = randomcrop croppadding pad croppad padcrop randcrop
augment.cutout = cutoutsize cutoutlength cutoutholes
optimizer = opt optim optimiser optname optimizername optimname solver
optimizer.lr = learningrate learnrate baselr initlr maxlr peaklr eta lrate initiallr lr0 startlr
    startinglr lrinit rate blr
optimizer.momentum = mom sgdmomentum mu
optimizer.weight_decay = wd l2 l2reg decay weightdecays l2penalty regularization l2regularization
    weightreg wdecay reg
optimizer.betas = beta beta1 beta2 b1 b2 adambetas adambeta1 adambeta2 optbetas
optimizer.eps = epsilon adameps adamepsilon opteps
scheduler = sched lrscheduler schedule lrschedule lrpolicy lrschedulertype schedulername lrsched
    lrdecay annealing
scheduler.warmup = warmupepochs warmupsteps warmupiters warmupratio numwarmupsteps warmupfraction
    pctstart warmupproportion warmuplength
scheduler.milestones = lrsteps decayepochs lrmilestones stepsize lrstepsize lrdecayepochs
    lrdecaysteps decaysteps milestone schedulesteps
scheduler.gamma = lrgamma decayrate lrdecayrate lrdecayfactor decayfactor lrfactor lrdecaygamma
scheduler.final = minlr finallr etamin lrmin endlr lrend finaldivfactor lrf
scheduler.start = divfactor warmuplr lrstart warmupinitlr warmupfactor
trainer.accumulate = accumulategradbatches gradientaccumulationsteps gradaccum accumiter
    accumulationsteps gradaccumsteps gradaccumulation accum accumsteps accumulation itersize
    gradientaccumulation
trainer.amp = precision mixedprecision useamp half ampdtype dtype amplevel autocast
trainer.amp=fp16 = fp16 float16
trainer.amp=bf16 = bf16 bfloat16
trainer.compile = torchcompile usecompile compilemodel jit
trainer.channels_last = memoryformat nhwc
trainer.clip = gradclip clipgrad clipnorm maxgradnorm gradientclipval clipgradnorm gradientclip
    gradnorm gradclipnorm clipgradient gradclipval gradientclipping clipvalue maxnorm clippinggrad
    gradientclipnorm
trainer.ema = emadecay modelema useema modelemadecay ewa emarate
trainer.label_smoothing = smoothing labelsmooth ls smooth lsm smoothlabels
trainer.class_weights = classweight lossweight lossweights weightedloss useclassweights balanced
    balancedloss classbalanced balanceclasses classweighting
trainer.early_stop = patience earlystopping earlystoppingpatience earlystoppatience
trainer.max_time = timelimit maxhours timeout maxtrainingtime walltime maxminutes timebudget
trainer.limit_steps = limittrainbatches maxbatches limitbatches
trainer=debug = debug fastdevrun dryrun smoketest sanitycheck
trainer.eval_every = evalinterval valinterval evalfreq evalsteps checkvaleverynepoch valevery
    testinterval valfreq valcheckinterval validateevery evaleverynepochs evalfrequency
    evaluationinterval validationinterval
trainer.save_every = saveinterval savefreq savesteps checkpointevery ckptfreq checkpointinterval
    checkpointfreq savefrequency ckptinterval saveeverynepochs saveperiod checkpointperiod
trainer.log_every = loginterval logfreq printfreq logeverynsteps loggingsteps printevery verbose
    loglevel logsteps printinterval logfrequency verbosity displayevery quiet
trainer.threads = numthreads nthreads ompnumthreads cores cputhreads numcores ncores ncpu ncpus
    numcpus
trainer.devices = gpus ngpu numgpus ngpus worldsize nproc numprocesses nprocpernode numdevices
    ndevices ddp distributed
trainer.sync_bn = syncbatchnorm syncbnorm usesyncbn convertsyncbn
trainer.deterministic = cudnndeterministic reproducible determinism
trainer.select = selection subset databudget
evaluator.tta = testtimeaugmentation testaug testtimeaug testaugmentation
evaluator.split = evalsplit testsplit reportsplit
seed = randomseed manualseed rngseed randseed randomstate seeds seedvalue globalseed torchseed
    npseed
epochs = numepochs nepochs maxepochs ep totalepochs numtrainepochs nepoch nbepochs numepoch maxepoch
    trainepochs
steps = maxsteps numsteps iters maxiters numiters totalsteps totaliters maxiter niter niters
    numtrainingsteps trainsteps iteration nsteps numiterations maxiterations itermax trainiters
batch_size = bs batch bsz batchsz trainbatchsize perdevicetrainbatchsize minibatch minibatchsize mb
    trainbs batches bsize perdevicebatchsize trainbatch b batchsizetrain
val_fraction (the part held out: 0.1 where the lab keeps 0.9) = validationsplit
val_fraction = valsplit valsize validsplit validationfraction valratio validfraction valfrac
    validationsize validsize valpercent validationratio holdout valpart
device = gpu cuda usecuda usegpu nocuda gpuid gpuindx gpuindex gpuids accelerator cudadevice
    devicename deviceid dev processor
device=cpu = cpu usecpu forcecpu cpuonly
device=mps = mps usemps nomps
out = savedir outputdir outdir logdir output savepath checkpointdir ckptdir defaultrootdir
    resultsdir workdir rundir expdir outputpath outpath resultdir modeldir savefolder outputfolder
    savedirectory logpath outputs snapshotdir savemodel savemodelpath basedir
name = expname runname experimentname tag label wandbname expid jobname runid comment notes title
study = studyname sweepname group wandbgroup
resume = resumefrom resumefromcheckpoint checkpoint ckpt ckptpath startfromcheckpoint load
    loadcheckpoint restore continue checkpointpath resumepath loadpath resumecheckpoint autoresume
    resumedir continuefrom loadckpt loadmodel restorefrom resumetraining
init_from = pretrained weights initcheckpoint initweights finetune loadweights pretrainedpath
    initialweights pretrainedweights finetunefrom pretrain usepretrained initialcheckpoint
    pretrainedmodel
jobs = njobs maxparallel parallel numjobs parallelruns
retries = maxretries numretries tries
match = budget matchparams equalparams
target = numparams paramsbudget parambudget targetparams flopsbudget
pictures = plot plots figures saveplots makeplots saveimages
experiment = exp experiments recipe config preset cfg configfile
model.dropout = dropoutrate droprate drop pdropout dropoutprob dropoutp keepprob dropoutprobability
    dropouts
"""

# Our words are the reason why there is no such key.
NO_KEYS = """
a file that you name is run; it is for the code in a run folder, train resume=RUN trust_code=true
    = trustcode trust
it answers for a file that changed while a run stood still, train resume=RUN code=theirs|mine = code
the data live on the device, so nothing loads or copies them meanwhile; leave it out = workers
    numworkers nworkers nw numdataworkers pinmemory prefetchfactor persistentworkers dataworkers
    loaderworkers numproc prefetch dataloader dataloaders cachedata inmemory
the loss is the cross-entropy; trainer.label_smoothing=0.1 smooths its targets = loss lossfn lossfun
    lossfunction criterion losstype lossname
the data set says so; choose one by dataset=NAME = numclasses nclasses classes nclass inchannels
    channelsin inputchannels inchans imagechannels numchannelsin
the block says so; choose one by block=NAME, or add your own (CONTRIBUTING.md) = kernelsize kernel
    stride strides padding dilation groups activation act nonlinearity ksize
metrics.jsonl in the run folder holds every step; write name=LABEL for a label = wandb tensorboard
    tb project wandbproject entity mlflow logger usewandb comet neptune tracker reportto
MNIST and the others are fetched at first use; leave it out = download downloaddata
evaluation takes batches of the same size as training; leave it out = testbatchsize evalbatchsize
    valbatchsize perdeviceevalbatchsize validbatchsize
no such augmentation here; augment=cutout is the strongest = mixup cutmix randaugment autoaugment
    randaug mixupalpha cutmixalpha trivialaugment randomerasing reprob colorjitter autoaug rotation
"""

# Our word is an option, a choice or a verb.
OPTIONS = """
residual = resblock residualblock identityblock res resblocks
basic = resblock resblock2 basicresblock
conv = convblock plain plainblock convolution vanilla cnnblock convbnrelu noskip noresidual
residual_down = resdownblock resdown residualdown downblock residualdownblock downsample
skip = skipblock skipconnection concat concatenate concatenation denseskip
preact = preactivation preactblock preactres preactresidual preactivationblock v2 preactbasicblock
bottleneck = bottleneckblock bottle bottlenecks
deepcnn = cnn deepcnnnet deepconvnet
resnet = customresnet resnetmnist resnetsmall smallresnet
cifar_resnet = resnetcifar resnetcifar10 resnetforcifar
imagenet_resnet = resnetimagenet torchvisionresnet
airbench = airbench94
fashion_mnist = fmnist fashion
folder = imagefolder images own custom photos imagefolderdataset
kmnist = kuzushiji kuzushijimnist
emnist_balanced = emnist
emnist_letters = emnist letters
svhn = housenumbers streetviewhousenumbers
stl10 = stl
speedrun94 = airbench94 speedrun
speedrun96 = airbench96
sgd = nesterov momentum sgdm sgdmomentum sgdnesterov momentumsgd
adam = adamoptimizer
adamw = adamdecoupled
multistep = step steplr steps milestones piecewise piecewiseconstant multisteps
cosine = cos cosineannealing cosinelr annealing cosinedecay cosinewarmup cosineannealinglr
onecycle = onecyclelr 1cycle onecyclepolicy superconvergence
linear = linearlr lineardecay triangular linearwarmup triangle
constant = constantlr fixed flat
standard = default basic flipcrop cropflip padcrop cifar simple
none = no false off null nothing identity disabled nonorm noaugmentation
off = no false none null float32 fp32 32 full disabled
batch = bn batchnorm batchnorm2d batchnormalization true yes
he = kaiming kaimingnormal henormal kaiminguniform msra heinit
torch = pytorch
fp16 = 16 float16 half 16mixed mixed16
bf16 = bfloat16 bf16mixed
cuda = gpu nvidia rocm gpus
mps = metal apple m1
val = valid validation dev
flip = mirror hflip horizontal horizontalflip
random = true yes horizontal hflip randomhorizontalflip
params = parameters nparams numparams paramcount parametercount numparameters
macs = flops mac flop multiplyadds madds gmacs gflops
seconds = time runtime duration trainseconds traintime
test.accuracy = accuracy acc testacc testaccuracy top1 acc1
test.loss = loss testloss nll crossentropy
test.f1_macro = f1 f1macro macrof1 testf1 f1score
test.expected_calibration_error = ece calibration calibrationerror expectedcalibrationerror
val.accuracy = valacc valaccuracy validationaccuracy validacc valacc1
val.loss = valloss validationloss validloss
train.accuracy = trainacc trainaccuracy trainingaccuracy
train.loss = trainloss trainingloss
train.seconds = seconds time trainingtime runtime duration traintime
always = true yes on
never = false no off
auto = default latest last automatic
reflect = reflection reflectpad mirror
zeros = zero constant black
debug = fastdevrun dryrun smoke test
list = ls runs status ps show
evaluate = eval test report score predict
draw = plot plots picture pictures figures graph
compare = cmp diff comparison table
search = tune optuna hpo hyperopt optimize hpsearch
verify = check prove proof
info = env doctor versions about devices
"""

# By the word: an option that must be among the choices, and what to write if it is.
RECIPES = {
    "resnet101": ("imagenet_resnet", "model=imagenet_resnet depth=101 block=bottleneck"),
    "resnet152": ("imagenet_resnet", "model=imagenet_resnet depth=152 block=bottleneck"),
    "preactresnet18": ("resnet18", "model=resnet18 block=preact"),
    "preresnet18": ("resnet18", "model=resnet18 block=preact"),
    "plainnet": ("cifar_resnet", "model=cifar_resnet shortcut=false"),
    "plain20": ("resnet20", "model=resnet20 shortcut=false"),
    "plain56": ("resnet56", "model=resnet56 shortcut=false"),
    "plain18": ("resnet18", "model=resnet18 shortcut=false"),
    "plain34": ("resnet34", "model=resnet34 shortcut=false"),
}

# Names of things that are not here. No name of ours is guessed for them, even a letter away.
FOREIGN = """
adabelief adabound adadelta adafactor adagrad adamax adamp adams adan alexnet asgd caltech cars cbam
celeba cinic convnext cosineannealingwarmrestarts cosinewarmrestarts cyclic cycliclr darknet dense
denseblock densenet ecaresnet efficientnet exponential exponentiallr float64 flowers food fp64 fp8
glorot googlenet group groupnorm hpu imagenet inception inceptionblock instance instancenorm int4
int8 invertedresidual iresnet lamb lars layer layernorm lbfgs lenet lion localrank mbconv metric mlp
mobilenet mode nadam nadamw nasnet noise npu orthogonal path pets plateau poly polynomial prodigy
qmnist radam ranger rank reducelronplateau regnet resnest resnetd resnetrs resnetv resnext resunet
rmsprop rprop sam se seblock senet seresnet sgdp sgdr sgdw shampoo shufflenet sknet soap sophia
sparseadam squeezenet tf32 time tinyimagenet tpu unet vgg vit wideresnet wrn xavier xaviernormal
xavieruniform xception xla xpu xresnet yogi
"""
